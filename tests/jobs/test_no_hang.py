"""Jobs in which something goes wrong: each ends by itself, or says who waits for whom.

By the Python executor, which is loaded in half the time; `test_compiled.py` has what is special to compiled code.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hpcdist.kernels.jit import SWITCH

PATIENCE = 60.0  # seconds; a job that needs them hangs
COMMAND = [sys.executable, "-m", "hpcdist"]
FROM_A_LAUNCHER = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "SLURM_", "HPCDIST_")
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(FROM_A_LAUNCHER)}

BEGIN = """
import os, sys, time
import numpy as np
import hpcdist
from mpi4py import MPI
comm = MPI.COMM_WORLD
buffer = np.zeros(100)

def until_told():
    while not os.path.exists("go"):
        time.sleep(0.01)
"""


class Job:
    """A program on several ranks, in a folder of its own."""

    def __init__(self, folder, ranks, program, **variables):
        self.folder = Path(folder)
        (self.folder / "program.py").write_text(BEGIN + program)
        command = [*COMMAND, "run", "-n", str(ranks), "--", sys.executable, "program.py"]
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env=CLEAN | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self.output = ""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def end(self):
        """Wait until the job has ended by itself; its exit code."""
        rest, _ = self.process.communicate(timeout=PATIENCE)
        self.output += rest
        return self.process.returncode

    def read_until(self, text):
        """Read the job's output up to a line with `text` in it, which is returned."""
        for line in self.process.stdout:
            self.output += line
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in the output of the job:\n{self.output}")

    def tell(self):
        """Let ranks that wait in `until_told` go on."""
        (self.folder / "go").touch()


def by_python(folder, ranks, program, **variables):
    """A job whose plans are run by the Python executor."""
    return Job(folder, ranks, program, **{SWITCH: "0", **variables})


# --- a rank that fails takes the others along ---


def test_an_exception_on_one_rank_ends_the_job_with_its_traceback(tmp_path):
    program = """
plan = hpcdist.plan(comm, buffer, algorithm="ring")
if comm.rank == 1:
    raise ValueError("rank 1 gives up")
plan()
"""
    with by_python(tmp_path, 3, program) as job:
        assert job.end() != 0
    assert "hpcdist: rank 1 ends the job:\nTraceback (most recent call last):" in job.output
    assert "ValueError: rank 1 gives up" in job.output


def test_an_exception_between_one_line_calls_ends_the_job_too(tmp_path):
    program = """
hpcdist.allreduce(comm, buffer)
buffer[comm.rank * 50]  # rank 2 has no element 100
hpcdist.allreduce(comm, buffer)
"""
    with by_python(tmp_path, 3, program) as job:
        assert job.end() != 0
    assert "hpcdist: rank 2 ends the job:" in job.output
    assert "IndexError: index 100 is out of bounds" in job.output


def test_an_error_that_ranks_agree_on_can_be_caught_and_the_job_goes_on(tmp_path):
    program = """
try:
    hpcdist.allreduce(comm, buffer[: 50 + comm.rank])
except hpcdist.ArgumentError as error:
    buffer[:] = 1
    print("caught", hpcdist.allreduce(comm, buffer)[0], error, flush=True)
"""
    with by_python(tmp_path, 3, program) as job:
        assert job.end() == 0
    assert job.output.count("caught 3.0 the ranks do not make the same call. rank 0: count=50; rank 1: count=51") == 3


# --- the watchdog ---


def test_the_watchdog_says_which_rank_waits_in_which_step_for_what(tmp_path):
    program = """
plan = hpcdist.plan(comm, buffer, algorithm="recursive_doubling")
if comm.rank == 0:
    until_told()
plan()
"""
    with by_python(tmp_path, 2, program, HPCDIST_TIMEOUT="0.4") as job:
        line = job.read_until("in recursive_doubling")  # on a busy machine, binding may be slow and reported first
        job.tell()
        assert job.end() == 0
    assert "no progress" in line
    assert "rank 1 of 2 in recursive_doubling (sum, float64, 800 bytes, run 1), step 0 of 1: " in line
    assert "receive 800 bytes from rank 0" in line or "send 800 bytes to rank 0" in line


@pytest.mark.parametrize(
    ("before", "call", "said"),
    [
        ("", "hpcdist.plan(comm, buffer)", "waits for all ranks to use a communicator for the first time"),
        ("hpcdist.plan(comm, buffer)", "hpcdist.plan(comm, buffer)", "waits for all ranks to agree on allreduce"),
        (
            "hpcdist.allreduce(comm, buffer)",
            "hpcdist.allreduce(comm, buffer)",
            "in the check that all make the same call",
        ),
        ("plan = hpcdist.plan(comm, buffer)", "plan.close()", "waits for all ranks to close a plan"),
    ],
)
def test_the_watchdog_sees_that_a_rank_does_not_make_the_call(tmp_path, before, call, said):
    program = f"{before}\nif comm.rank == 1:\n    until_told()\n{call}\n"
    with by_python(tmp_path, 2, program, HPCDIST_TIMEOUT="0.4") as job:
        line = job.read_until(f"rank 0 of 2 {said}")
        job.tell()
        assert job.end() == 0
    assert "no progress" in line


def test_the_watchdog_can_end_the_job(tmp_path):
    program = """
plan = hpcdist.plan(comm, buffer, algorithm="ring")
if comm.rank == 2:
    until_told()
plan()
"""
    with by_python(tmp_path, 3, program, HPCDIST_TIMEOUT="0.4", HPCDIST_TIMEOUT_ACTION="abort") as job:
        assert job.end() != 0
    assert "no progress" in job.output
    assert "HPCDIST_TIMEOUT_ACTION=abort ends the job" in job.output


# --- launchers ---


@pytest.mark.parametrize("stuck_in", ["MPI", "Python"])
def test_ranks_exit_when_their_launcher_is_killed(tmp_path, stuck_in):
    program = f"""
from hpcdist.mpi.world import world
comm = world()
print("ready", os.getpid(), flush=True)
while "{stuck_in}" == "Python":
    pass
comm.Recv(buffer, (comm.rank + 1) % comm.size)
"""
    with by_python(tmp_path, 2, program) as job:
        ranks = [psutil.Process(int(job.read_until("ready").split()[1])) for _ in range(2)]
        os.kill(job.process.pid, signal.SIGKILL)
        _, alive = psutil.wait_procs(ranks, timeout=PATIENCE)
        for rank in alive:
            rank.kill()
    assert not alive


@pytest.mark.parametrize(
    ("variable", "advice"),
    [
        ("OMPI_COMM_WORLD_SIZE", "start it with the mpirun (or mpiexec) of the MPI in use"),
        ("SLURM_STEP_NUM_TASKS", "use srun --mpi=pmix for Open MPI, srun --mpi=pmi2 for MPICH"),
    ],
)
def test_processes_that_their_launcher_left_alone_say_which_flag_is_right(variable, advice):
    command = [sys.executable, "-c", "from hpcdist.mpi.world import world; world()"]
    done = subprocess.run(
        command, env=CLEAN | {variable: "4"}, capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 1
    assert f"started 4 processes ({variable}), but each is a world of size 1 of its own" in done.stderr
    assert advice in done.stderr


def test_the_folder_of_a_killed_launcher_of_the_same_number_is_no_hindrance(tmp_path):
    killed_before = 'mkdir "$TMPDIR/ompi.$$" && touch "$TMPDIR/ompi.$$/pmix.vm.tool" && exec "$@"'
    command = [*COMMAND, "run", "-n", "1", "--", "echo", "started"]
    variables = CLEAN | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(
        ["sh", "-c", killed_before, "sh", *command], env=variables, capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (0, "started\n"), done.stderr
