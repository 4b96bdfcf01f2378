"""The program that measures how much of an all-reduce is hidden, on real ranks; what it measures here says nothing."""

import json
import subprocess
import sys

import pytest

from hpcdist.bench import overlap
from hpcdist.bench.overlap import LIBRARY, OURS, WORK, hidden

pytestmark = pytest.mark.long

RUN = [sys.executable, "-m", "hpcdist", "run", "-n", "2", "--"]
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
    program = [sys.executable, "-m", "hpcdist.bench.overlap", *options, "--out", str(tmp_path / "found")]
    done = subprocess.run([*RUN, *program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())["found"]
    assert [each["nbytes"] for each in found] == [4096, 1 << 20]
    for each in found:
        assert each["wrong"] == 0
        assert list(each["seconds"]) == [OURS, LIBRARY, WORK, *WAYS]
        assert list(each["hidden"]) == WAYS
        assert all(spread["count"] == 3 and spread["median"] > 0 for spread in each["seconds"].values())
    assert (tmp_path / "found.md").read_text().count("%") > 2 * len(WAYS)


def test_what_is_hidden_is_the_shorter_one_none_of_it_or_less():
    for alone, work, together, share in ((2, 3, 3, 1), (3, 2, 3, 1), (2, 3, 5, 0), (2, 3, 6, -0.5), (2, 2, 3, 0.5)):
        assert hidden([alone], [work], [together]).median == share


def test_work_is_looked_at_after_each_piece():
    from mpi4py import MPI

    work, looks = overlap.Work(MPI.COMM_SELF), []
    work.do(10, 3, lambda: looks.append(None))
    assert len(looks) == 3
    assert work.seconds > 0
