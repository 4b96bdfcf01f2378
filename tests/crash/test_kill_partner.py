"""kill -9 at every point of saving partner copies: what other ranks then find is whole, and not older than before."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matrix import WHOLE

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "hpcdist"]
PATIENCE = 60.0  # seconds, for a machine that is busy with other things

COMMON = """
import json, os, pathlib, signal, sys
import numpy as np
from mpi4py import MPI
from hpcdist.checkpoint.partner import PartnerCopies

COMM = MPI.COMM_WORLD

def arrays(step):
    return {"weights": np.random.default_rng(step).normal(size=(100, 7)), "scalar": np.array(step)}

def begin(directory, nodes):
    node = COMM.rank % nodes
    folder = directory / str(node)
    folder.mkdir(parents=True, exist_ok=True)
    return PartnerCopies(COMM, "run", folder, [rank % nodes for rank in range(COMM.size)])
"""

# Save twice; within the second save, one rank vanishes just before its n-th change of the file system.
SAVE_AND_DIE = (
    COMMON
    + """
left = [0]  # calls until the end; 0 for no end

def die_at(call):
    def deadly(function):
        def call_or_die(*arguments, **options):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)
        return call_or_die

    for name in ("mkdir", "open", "posix_fallocate", "rename", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    pathlib.Path.write_text = deadly(pathlib.Path.write_text)
    left[0] = call

directory, victim, call = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
started = begin(directory, 2)
started.save(1, arrays(1), {"step": 1})
if COMM.rank == victim:
    die_at(call)
started.save(2, arrays(2), {"step": 2})
left[0] = 0
started.close()
"""
)

# What is found in each directory; then the run goes on and is complete.
RECOVER = (
    COMMON
    + """
steps = []
for directory in sys.argv[1:]:
    started = begin(pathlib.Path(directory), 2)
    found = started.newest()
    assert found, started.notes
    into = {name: np.zeros(entry.shape, entry.dtype) for name, entry in found.manifest.arrays.items()}
    started.restore(found, into)
    assert found.facts == {"step": found.step}
    assert {name: values.tobytes() for name, values in into.items()} == {
        name: values.tobytes() for name, values in arrays(found.step).items()}
    steps.append(found.step)
    started.save(3, arrays(3), {"step": 3})
    left = sorted(path.name for path in pathlib.Path(directory).glob("*/*/run/*"))
    assert left == [f"step-00000003.{started.token}"] * 2, left
    COMM.Barrier()
    started.forget()
    started.close()
if COMM.rank == 0:
    print(json.dumps(steps))
"""
)


def launched(ranks: int, program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "run", "-n", str(ranks), "--", sys.executable, "-c", program, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)


def kill_everywhere(folder: Path, victim: int) -> list[Path]:
    """The directories of jobs in which this rank was killed, each a point later than before; in the last it was not.

    In the whole matrix at every point, else at every second.
    """
    found: list[Path] = []
    for call in itertools.count(1, 1 if WHOLE else 2):
        found.append(folder / f"{victim}-{call}")
        done = launched(4, SAVE_AND_DIE, found[-1], victim, call)
        if done.returncode == 0:
            break
        assert "signal 9" in done.stdout + done.stderr, done.stderr
    return found


@pytest.mark.limit(600)
def test_a_rank_killed_anywhere_in_a_save_leaves_a_whole_state(tmp_path: Path) -> None:
    of_leader, of_other = kill_everywhere(tmp_path, 0), kill_everywhere(tmp_path, 3)
    done = launched(3, RECOVER, *of_leader, *of_other)
    assert done.returncode == 0, done.stderr
    steps = json.loads(done.stdout)
    found, others = steps[: len(of_leader)], steps[len(of_leader) :]
    assert others == ([1, 1, 1, 1, 2] if WHOLE else [1, 1, 2])  # it makes two files and takes their memory
    assert found == sorted(found)  # 1 until the commit, 2 from then on
    assert found.count(1) > (5 if WHOLE else 2)
    assert found.count(2) > (4 if WHOLE else 2)
    assert not list(tmp_path.glob("*/*/*"))
