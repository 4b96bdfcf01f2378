"""What needs no MPI must not import it: proofs, prices and pictures work where there is none."""

import pkgutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner

import hpcdist
from hpcdist.cli.main import main

NEED_MPI = (
    "bench.alone.commit_job",  # it finds `harness` beside it
    "bench.alone.gloo",  # it needs torch
    "bench.cases",
    "bench.checkpoints.dcp",  # it needs torch
    "bench.checkpoints.peer",
    "bench.checkpoints.ranks",
    "bench.checkpoints.room",
    "bench.checkpoints.rounds",
    "bench.checkpoints.state",
    "bench.checkpoints.ways",
    "bench.findings",
    "bench.gpu.bench",
    "bench.gpu.measurement",
    "bench.gpu.nccl",
    "bench.links",
    "bench.overhead.ranks",
    "bench.overlap.ranks",
    "bench.ranks",
    "bench.sampling",
    "checkpoint",
    "collectives",
    "doctor",
    "executor.intranode.bounce_buffers",
    "executor.intranode.capability",
    "executor.intranode.gpu_peer_memory",
    "executor.intranode.in_place",
    "executor.progress_thread",
    "mpi.collective_errors",
    "mpi.cvars",
    "mpi.machine",
    "mpi.quirks",
    "mpi.world",
    "sweep",
    "train",
    "transport.barrier",
    "transport.cuda_ipc",
    "transport.mpi",
    "transport.shared_memory",
)
NEED_NUMBA = (
    "executor.compiled",
    "executor.intranode.bounce_kernel",
    "kernels.copy_loops",
    "kernels.half_loops",
    "kernels.in_order",
    "kernels.native",
    "transport.barrier_flags",
)
WITHOUT_MPI = "import sys; sys.modules['mpi4py'] = None\n"  # importing it raises ModuleNotFoundError


def modules(folder, prefix):
    """The names of all modules of a package, found without importing any."""
    for info in pkgutil.iter_modules([str(folder)], prefix):
        yield info.name
        if info.ispkg:
            yield from modules(folder / info.name.rpartition(".")[2], f"{info.name}.")


def needs(name, rooms):
    room = name.removeprefix("hpcdist.")
    return any(room == other or room.startswith(f"{other}.") for other in rooms)


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_pure_room_is_imported_without_mpi4py():
    impure = NEED_MPI if find_spec("numba") else NEED_MPI + NEED_NUMBA
    pure = [name for name in modules(Path(hpcdist.__file__).parent, "hpcdist.") if not needs(name, impure)]
    assert {"hpcdist.schedule.ir", "hpcdist.algorithms.ring", "hpcdist.kernels.reduce", "hpcdist.cli.main"} <= set(pure)
    each = """
import importlib, traceback
failed = []
for name in {pure}:
    try:
        importlib.import_module(name)
    except ImportError:
        failed.append(name + ": " + traceback.format_exc())
print(*failed)
"""
    assert run(WITHOUT_MPI + each.format(pure=pure)).strip() == ""


def test_mpi4py_cannot_be_imported_in_the_test_above():
    assert run(WITHOUT_MPI + "try: import mpi4py\nexcept ModuleNotFoundError: print('none')").strip() == "none"


def test_without_mpi4py_the_rooms_that_need_it_say_so():
    program = "import hpcdist\ntry: hpcdist.allreduce\nexcept ModuleNotFoundError as error: print(error)"
    assert "mpi4py" in run(WITHOUT_MPI + program)


def test_schedules_are_proven_priced_and_shown_without_mpi4py():
    program = """
import hpcdist
from click.testing import CliRunner
from hpcdist.cli.main import main
hpcdist.verify(hpcdist.algorithms.ring(4))
for verb in (["show", "ring", "-n", "4"], ["predict", "-n", "4"], ["verify", "-n", "4"]):
    done = CliRunner().invoke(main, verb)
    assert done.exit_code == 0, (verb, done.output)
"""
    run(WITHOUT_MPI + program)


def test_the_help_of_what_measures_needs_no_mpi():
    program = """
from click.testing import CliRunner
from hpcdist.bench.command import VERBS
from hpcdist.cli.main import main
for verb in VERBS:
    done = CliRunner().invoke(main, ["bench", verb, "--help"])
    assert done.exit_code == 0 and "--out" in done.output, (verb, done.output, done.exception)
print(len(VERBS))
"""
    assert int(run(WITHOUT_MPI + program)) == 13


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["swep"], "there is no verb 'swep'; did you mean 'sweep'?"),
        (["bench", "overhed"], "there is no verb 'overhed'; did you mean 'overhead'?"),
        (["bench", "xyz"], "there is no verb 'xyz'; choose from node, network, "),
    ],
)
def test_a_verb_that_is_misspelt_is_refused_with_the_one_that_is_near(words, said):
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert said in done.output


def test_importing_hpcdist_does_not_import_mpi():
    assert run("import sys, hpcdist, hpcdist.cli.main; print('mpi4py' in sys.modules)").strip() == "False"


def test_importing_hpcdist_does_not_import_numba():
    assert run("import sys, hpcdist.cli.main, hpcdist.executor.bind; print('numba' in sys.modules)").strip() == "False"
