"""The program that measures how much of an all-reduce is hidden, on real ranks; what it measures here says nothing."""

import os
import subprocess
import sys

import pytest

from hpcdist.bench.overlap.ranks import Work, hidden
from hpcdist.bench.overlap.report import LIBRARY, OURS, WORK, Part
from hpcdist.bench.saved import read

pytestmark = pytest.mark.long

HPCDIST = [sys.executable, "-m", "hpcdist"]
WAYS = [
    "calls before and after the work",
    "test() after each piece",
    "thread",
    "MPI_Iallreduce",
    "MPI_Iallreduce, MPI_Test after each piece",
]


@pytest.mark.parametrize("algorithm", ["ring", "auto"])
def test_all_ways_are_measured_and_leave_the_right_result(tmp_path, algorithm):
    options = ["--sizes", "4KiB,1MiB", "--algorithm", algorithm, "--rounds", "3", "--looks", "7"]
    command = [*HPCDIST, "bench", "overlap", *options, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    part = read(tmp_path / "overlap.json", Part).parts["2 ranks"]
    assert [each.nbytes for each in part.rows] == [4096, 1 << 20]
    for each in part.rows:
        assert each.wrong == 0
        assert list(each.seconds) == [OURS, LIBRARY, WORK, *WAYS]
        assert list(each.hidden) == WAYS
        assert all(spread.count == 3 and spread.median > 0 for spread in each.seconds.values())
    assert (tmp_path / "overlap.md").read_text().count("%") > 2 * len(WAYS)


def test_ranks_that_a_launcher_has_started_are_measured_as_they_are(tmp_path):
    options = ["--sizes", "4KiB", "--ranks", "7", "--rounds", "3", "--out", str(tmp_path / "out")]
    command = [*HPCDIST, "run", "-n", "3", "--", *HPCDIST, "bench", "overlap", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr.count("wrote ") == 1
    ((name, part),) = read(tmp_path / "out" / "overlap.json", Part).parts.items()
    assert name.startswith("3 ranks of ")
    assert (part.machine["ranks"], [each.nbytes for each in part.rows]) == (3, [4096])


def test_a_job_that_fails_is_missing_and_fails_the_command(tmp_path):
    command = [*HPCDIST, "bench", "overlap", "--sizes", "4KiB", "--out", str(tmp_path)]
    broken = {**os.environ, "HPCDIST_TIMEOUT": "never"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=broken)
    assert done.returncode == 1
    (missing,) = read(tmp_path / "overlap.json", Part).missing
    assert missing.startswith("2 ranks: the job exited with ")


def test_what_is_hidden_is_the_shorter_one_none_of_it_or_less():
    for alone, work, together, share in ((2, 3, 3, 1), (3, 2, 3, 1), (2, 3, 5, 0), (2, 3, 6, -0.5), (2, 2, 3, 0.5)):
        assert hidden([alone], [work], [together]).median == share


def test_work_is_looked_at_after_each_piece():
    from mpi4py import MPI

    work, looks = Work(MPI.COMM_SELF), []
    work.do(10, 3, lambda: looks.append(None))
    assert len(looks) == 3
    assert work.seconds > 0
