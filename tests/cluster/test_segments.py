"""Between hosts messages are as large as Open MPI sends at once over TCP; inside a host they stay large."""

import sys

import pytest
from virtual_hosts import Cluster, missing

cluster = Cluster("segments")
MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(200),
]
RANKS = 3  # two on the first host, one on the second
CUT = """
import sys
import numpy as np
from mpi4py import MPI
import hpcdist
from hpcdist.schedule.program import Kind
comm, asked = MPI.COMM_WORLD, int(sys.argv[1])
numbers = np.arange(1 << 20, dtype=np.int64) * (comm.rank + 1)
plan = hpcdist.plan(comm, numbers, algorithm="ring", segment_nbytes=None if asked < 0 else asked)
plan()
assert (numbers == np.arange(1 << 20) * 6).all()
sent = [op for op in plan.bound.program.operations if op.kind is Kind.SEND]
largest = max(8 * op.count for op in sent)
print("CUT", comm.rank, plan.segment_nbytes, largest, flush=True)
"""
DEFAULT, PIECE = 4 << 20, 60 << 10
THIRD = 8 * -(-(1 << 20) // 3)  # bytes of a chunk of the ring


@pytest.fixture(scope="module", autouse=True)
def hosts():
    """Two virtual hosts."""
    cluster("up", "--hosts", "2", "--rate", "1gbit")
    yield
    cluster("down")


def cut(asked=-1, ppn=2, **variables):
    """For each rank, the segment that its plan tells, and the bytes of the largest message that it sends."""
    said = cluster("run", "-n", RANKS, "--ppn", ppn, "--", sys.executable, "-c", CUT, asked, **variables)
    lines = sorted(line.split()[1:] for line in said.stdout.splitlines() if line.startswith("CUT"))
    return [tuple(map(int, line[1:])) for line in lines]


def test_messages_between_hosts_stay_below_the_limit_and_those_inside_one_do_not():
    # rank 0 sends to rank 1 on its own host, which sends to rank 2 on the other, which sends to rank 0
    assert cut() == [(PIECE, THIRD), (PIECE, PIECE), (PIECE, PIECE)]


def test_the_limit_is_the_library_s_own():
    assert cut(OMPI_MCA_btl_tcp_eager_limit=str(128 << 10))[1:] == [(124 << 10, 124 << 10)] * 2


def test_a_limit_that_is_of_no_use_is_left_alone():
    assert cut(OMPI_MCA_btl_tcp_eager_limit=str(8 << 10)) == [(DEFAULT, THIRD)] * 3


def test_what_is_asked_for_is_for_messages_between_hosts():
    assert cut(asked=1 << 20) == [(1 << 20, THIRD), (1 << 20, 1 << 20), (1 << 20, 1 << 20)]
    assert cut(asked=0)[1:] == [(1 << 30, THIRD)] * 2


def test_one_host_has_no_limit():
    assert cut(ppn=3) == [(DEFAULT, THIRD)] * 3


UNLIKE = """
import os
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    os.environ["OMPI_MCA_btl_tcp_eager_limit"] = "40000"
from mpi4py import MPI
from hpcdist.transport.mpi import transport_of
print("LEAST", transport_of(MPI.COMM_WORLD).sent_at_once, flush=True)
"""


def test_ranks_with_unlike_limits_take_the_lowest():
    said = cluster("run", "-n", 2, "--ppn", 1, "--", sys.executable, "-c", UNLIKE).stdout
    assert said.split() == ["LEAST", str(40000 - 4096)] * 2
