"""A first call on a communicator is cheap: how many collective operations of MPI it takes."""

import gc
import weakref
from typing import ClassVar

import numpy as np
import pytest
from mpi4py import MPI

import hpcdist
from hpcdist.transport.mpi import transport_of

pytestmark = pytest.mark.mpi(min_size=2)

COMM = MPI.COMM_WORLD
MOST = 8
COLLECTIVE = [
    *("Allgather", "allgather", "Allreduce", "allreduce", "Bcast", "bcast", "Barrier", "barrier", "Ibarrier"),
    *("Dup", "Split", "Split_type", "Create", "Gather", "gather", "Scatter", "scatter", "Reduce", "reduce"),
    *("Alltoall", "alltoall", "Allgatherv", "Alltoallv", "Scan"),
]


class Counted(MPI.Intracomm):
    """A communicator whose descendants, too, count their collective calls."""

    calls: ClassVar[list[str]] = []


def _counting(name):
    original = getattr(MPI.Intracomm, name)

    def counting(self, *arguments, **how):
        Counted.calls.append(name)
        made = original(self, *arguments, **how)
        return Counted(made) if type(made) is MPI.Intracomm else made

    return counting


for each in COLLECTIVE:
    if hasattr(MPI.Intracomm, each):
        setattr(Counted, each, _counting(each))


@pytest.fixture
def comm(monkeypatch):
    allocate = MPI.Win.Allocate_shared

    class CountedWindow(MPI.Win):
        @classmethod
        def Allocate_shared(cls, *arguments, **how):
            Counted.calls.append("Allocate_shared")
            return allocate(*arguments, **how)

    from hpcdist.transport import shared_memory

    class Fake:
        """MPI, as it is seen by the module that makes windows."""

        Win = CountedWindow

        def __getattr__(self, name):
            return getattr(MPI, name)

    monkeypatch.setattr(shared_memory, "MPI", Fake())
    duplicate = Counted(COMM.Dup())
    Counted.calls.clear()
    yield duplicate
    duplicate.Free()


CALLS = {
    "a small one-line call": lambda comm: hpcdist.allreduce(comm, np.zeros(1)),
    "a large one-line call": lambda comm: hpcdist.allreduce(comm, np.zeros(1 << 20)),
    "a call of a named algorithm": lambda comm: hpcdist.allreduce(comm, np.zeros(1000), algorithm="ring"),
    "a broadcast": lambda comm: hpcdist.bcast(comm, np.zeros(1000)),
    "a plan": lambda comm: hpcdist.plan(comm, np.zeros(1000))(),
    "a plan of messages": lambda comm: hpcdist.plan(comm, np.zeros(1000), algorithm="tree")(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_first_call_takes_few_collective_operations(comm, call):
    call(comm)
    assert {"Dup", "Split_type"} <= set(Counted.calls)
    assert len(Counted.calls) <= MOST, Counted.calls


def test_the_next_call_takes_none(comm):
    buffer = np.zeros(10)
    hpcdist.allreduce(comm, buffer)
    Counted.calls.clear()
    hpcdist.allreduce(comm, buffer)
    hpcdist.allreduce(comm, np.zeros(10))
    assert Counted.calls == []


def test_a_plan_of_arrays_that_are_shared_takes_few_more(comm):
    array = hpcdist.empty(10_000, "float32", comm)
    Counted.calls.clear()
    hpcdist.plan(comm, array)()
    assert len(Counted.calls) <= MOST, Counted.calls


# --- what is given back ---


def test_plans_that_nobody_refers_to_give_back_tags_and_memory():
    """Without a word from their user; all ranks hear of it when next they agree on anything."""
    comm = COMM.Dup()
    for count in (10, 100_000):
        for _ in range(5):
            hpcdist.plan(comm, np.zeros(count))()
            hpcdist.plan(comm, np.zeros(count), algorithm="ring")()
    transport = transport_of(comm)
    gc.collect()
    hpcdist.release(comm)
    assert transport.dropped == set()
    assert len(transport.free_tags) <= 4
    assert transport.home.windows == []
    comm.Free()


def test_a_plan_that_one_rank_still_refers_to_is_not_given_back():
    comm = COMM.Dup()
    plan = hpcdist.plan(comm, np.zeros(10))
    tag = plan.collective.tag
    kept = plan if COMM.rank == 0 else None
    del plan
    gc.collect()
    hpcdist.release(comm)
    assert tag not in transport_of(comm).free_tags
    del kept
    gc.collect()
    hpcdist.release(comm)
    assert tag in transport_of(comm).free_tags
    comm.Free()


@pytest.mark.parametrize("algorithm", ["auto", "ring"])
def test_arrays_go_with_the_last_plan_not_when_python_looks_for_circles(algorithm):
    comm = COMM.Dup()
    gc.disable()
    try:
        buffer = np.zeros(1000)
        kept = weakref.ref(buffer)
        plan = hpcdist.plan(comm, buffer, algorithm=algorithm)
        plan()
        del plan, buffer
        assert kept() is None
    finally:
        gc.enable()
    comm.Free()
