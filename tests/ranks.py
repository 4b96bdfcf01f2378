"""What makes tests run on several ranks, for the conftest.py of a folder of such tests.

Each runs the same tests, and after every phase of a test they agree on how it went. A test that fails on one rank fails
on all, with the reports of the ranks that failed. If the others do not come to hear of it, they are stuck in the test:
the job is aborted with the report.

They have the fixture `comm`.
"""

import os
import shutil
import sys
import tempfile
import time
from itertools import zip_longest

import numpy as np
import pytest
from mpi4py import MPI

WORLD = MPI.COMM_WORLD
PRIVATE = WORLD.Dup()  # no test knows it
GRACE = 5.0  # seconds in which the other ranks come to hear of a failure
OUTCOMES = ("passed", "skipped", "failed")

pytest.register_assert_rewrite("collective_cases")


@pytest.fixture
def comm():
    """A communicator that no other test has plans or bounce buffers on."""
    duplicate = WORLD.Dup()
    yield duplicate
    duplicate.Free()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config):
    if WORLD.size > 1:
        _own_folder(config)
    if WORLD.rank > 0:
        _quiet(config)


def _own_folder(config):
    """Ranks that shared pytest's folder would delete each other's files."""
    name = f"rank{WORLD.rank}"
    if config.option.basetemp:
        config.option.basetemp = os.path.join(config.option.basetemp, name)
        os.makedirs(os.path.dirname(config.option.basetemp), exist_ok=True)
    else:
        config.option.basetemp = tempfile.mkdtemp(prefix=f"hpcdist-{name}-")
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp, ignore_errors=True))


def _quiet(config):
    """Only rank 0 reports; what went wrong elsewhere reaches it in `_agree`."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until pytest ends
    config.add_cleanup(sys.stdout.close)
    if getattr(config.option, "xmlpath", None):
        config.option.xmlpath = None


def pytest_collection_finish(session):
    """Ranks that collected different tests would wait for each other for ever."""
    if WORLD.size == 1:
        return
    collected = PRIVATE.allgather([item.nodeid for item in session.items])
    failed = PRIVATE.allgather(session.testsfailed)
    for rank, tests in enumerate(collected):
        differing = next((pair for pair in zip_longest(collected[0], tests) if len(set(pair)) > 1), None)
        if differing and not any(failed):
            pytest.exit(f"rank 0 collected {differing[0]} where rank {rank} collected {differing[1]}", returncode=1)
    if any(failed) and not session.testsfailed:
        pytest.exit(f"tests could not be collected on ranks {np.flatnonzero(failed).tolist()}", returncode=1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if WORLD.size > 1:
        _agree(report)
    return report


def _agree(report):
    """Collective: what failed on one rank, or was skipped on some only, has failed on all."""
    mine = OUTCOMES.index(report.outcome)
    highest, lowest = _extremes(mine, report)
    if highest == lowest != OUTCOMES.index("failed"):
        return
    texts = PRIVATE.allgather(report.longreprtext if report.failed else "")
    outcomes = PRIVATE.allgather(report.outcome)
    if highest != OUTCOMES.index("failed"):
        texts = [f"{outcome} here" for outcome in outcomes]
    report.outcome = "failed"
    report.longrepr = "\n\n".join(f"rank {rank} of {WORLD.size}:\n{text}" for rank, text in enumerate(texts) if text)


def _extremes(mine, report):
    """The highest and the lowest of all ranks' outcomes; does not wait for ever for ranks that are stuck."""
    said, worst = np.array([mine, -mine]), np.empty(2, np.int64)
    request = PRIVATE.Iallreduce(said, worst, MPI.MAX)  # mpi4py 4.1 keeps neither array until it is complete
    patience = time.monotonic() + GRACE
    while not request.Test():
        if report.failed and time.monotonic() > patience:
            text = f"rank {WORLD.rank}: {report.nodeid} failed here while other ranks are stuck in it"
            print(f"\n{text}:\n{report.longreprtext}", file=sys.__stderr__, flush=True)
            WORLD.Abort(3)
        time.sleep(0.0005)
    return int(worst[0]), -int(worst[1])
