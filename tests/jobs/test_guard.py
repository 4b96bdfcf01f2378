"""The guard around tests on several ranks: what fails on one fails on all, and nothing hangs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
COMMAND = [sys.executable, "-m", "hpcdist", "run", "-n", "2", "--"]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--with-mpi", "--color=no", "mpi"]
BEGIN = "import pytest\nfrom mpi4py import MPI\nCOMM = MPI.COMM_WORLD\npytestmark = pytest.mark.mpi\n"


@pytest.fixture
def run(tmp_path):
    """Run these tests on two ranks under the guard; (exit code, output)."""

    def run_tests(program, limit="60"):
        (tmp_path / "mpi").mkdir()
        for shared in ("conftest.py", "matrix.py"):
            shutil.copy(TESTS / shared, tmp_path)
        shutil.copy(TESTS / "ranks.py", tmp_path / "mpi" / "conftest.py")
        (tmp_path / "mpi" / "test_it.py").write_text(BEGIN + program)
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        done = subprocess.run(
            [*COMMAND, *PYTEST],
            cwd=tmp_path,
            env=os.environ | {"HPCDIST_TEST_TIMEOUT": limit},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=100,
            check=False,
        )
        return done.returncode, done.stdout

    return run_tests


def test_what_passes_on_all_ranks_passes_once(run):
    code, output = run("def test_it(tmp_path):\n    assert COMM.allreduce(1) == 2\n")
    assert code == 0, output
    assert output.count("1 passed") == 1


def test_what_fails_on_one_rank_fails_on_all_with_its_report(run):
    code, output = run(
        "def test_it():\n    assert COMM.allreduce(1) != 2 or COMM.rank == 0, 'not so here'\n"
        "def test_next():\n    COMM.Barrier()\n"
    )
    assert code == 1, output
    assert "rank 1 of 2:" in output
    assert "AssertionError: not so here" in output
    assert "1 failed, 1 passed" in output


def test_a_fixture_that_fails_on_one_rank_fails_the_test_on_all(run):
    code, output = run(
        "@pytest.fixture\ndef half():\n    assert COMM.rank == 0\n"
        "def test_it(half):\n    COMM.Barrier()\ndef test_next():\n    COMM.Barrier()\n"
    )
    assert code == 1, output
    assert "1 passed, 1 error" in output


def test_what_is_skipped_on_one_rank_only_fails(run):
    code, output = run("def test_it():\n    COMM.rank or pytest.skip('alone')\n")
    assert code == 1, output
    assert "rank 0 of 2:\nskipped here" in output
    assert "rank 1 of 2:\npassed here" in output


def test_a_rank_that_fails_while_another_is_stuck_ends_the_job_with_its_report(run):
    code, output = run("def test_it():\n    assert COMM.rank, 'the first gives up'\n    COMM.recv(source=0)\n")
    assert code != 0
    assert "test_it failed here while other ranks are stuck in it" in output
    assert "the first gives up" in output


def test_a_deadlock_inside_mpi_ends_at_the_time_limit_with_the_line_that_is_stuck(run):
    code, output = run("def test_it():\n    COMM.recv(source=1 - COMM.rank)\n", limit="1")
    assert code != 0
    assert "Timeout" in output
    assert 'test_it.py", line 6 in test_it' in output


def test_ranks_that_collect_different_tests_are_told_so(run):
    code, output = run("if COMM.rank:\n    def test_one():\n        pass\nelse:\n    def test_two():\n        pass\n")
    assert code == 1, output
    assert "rank 0 collected mpi/test_it.py::test_two where rank 1 collected mpi/test_it.py::test_one" in output
