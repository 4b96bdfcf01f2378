"""Schedules of users on real ranks: right ones run, wrong ones and different ones are refused by all."""

from pathlib import Path

import numpy as np
import pytest
from buffers import check, distinct
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.errors import AgreedError, ArgumentError

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
FILE = Path(__file__).parents[2] / "jobscripts" / "own_algorithm.py"
MINE = {name: f"{FILE}:{name}" for name in ("star", "stars", "forgetful")}


@pytest.mark.parametrize("name", ["star", "stars"])
def test_a_schedule_of_the_user_s_runs(name):
    for given in (MINE[name], algorithms.allreduce(MINE[name], COMM.size)):
        for count in (0, 1, 7, 5000):
            values = distinct(COMM.size, count, "float32")
            x = values[COMM.rank].copy()
            plan = hpcdist.plan(COMM, x, algorithm=given)
            plan()
            check(x, values, "sum")
            assert plan.algorithm.startswith(f"{MINE[name]}@")
            plan.close()
            y = values[COMM.rank].copy()
            for _ in range(2):
                y[:] = values[COMM.rank]
                hpcdist.allreduce(COMM, y, algorithm=given)
                check(y, values, "sum")


def test_a_registered_name_runs():
    hpcdist.register("backwards", lambda size: algorithms.allreduce("tree", size))
    x = np.full(10, COMM.rank, np.int64)
    hpcdist.allreduce(COMM, x, "max", "backwards")
    assert (x == COMM.size - 1).all()


@pytest.mark.skipif(COMM.size == 1, reason="a lone rank is told nothing")
def test_a_wrong_one_is_refused_by_all_with_the_guilty_step():
    with pytest.raises(ArgumentError, match="<-- here"):
        hpcdist.plan(COMM, np.zeros(10), algorithm=MINE["forgetful"])
    with pytest.raises(ArgumentError, match="<-- here"):
        hpcdist.allreduce(COMM, np.zeros(10), algorithm=algorithms.allreduce(MINE["forgetful"], COMM.size))
    with pytest.raises(ArgumentError, match=f"for {COMM.size + 1} ranks, and here are {COMM.size}"):
        hpcdist.plan(COMM, np.zeros(10), algorithm=algorithms.ring(COMM.size + 1))


@pytest.mark.skipif(COMM.size == 1, reason="takes two ranks that differ")
def test_ranks_with_different_schedules_are_refused_by_all():
    mine = algorithms.ring(COMM.size) if COMM.rank else algorithms.tree(COMM.size)
    with pytest.raises(AgreedError, match="algorithm='ring@"):
        hpcdist.plan(COMM, np.zeros(10), algorithm=mine)
    x = np.ones(3)
    hpcdist.allreduce(COMM, x)
    assert (x == COMM.size).all()
