"""The segments that are chosen, for networks that are not here."""

import pytest
from mpi4py import MPI

from hpcdist.collectives.decide import LARGEST_AT_ONCE, LARGEST_MESSAGE, SEGMENTS, _segments
from hpcdist.collectives.facts import Facts
from hpcdist.collectives.signature import Signature
from hpcdist.device.paths import AWARE, HOST, PEER, STAGED
from hpcdist.transport.mpi import transport_of

KIB, MIB = 1 << 10, 1 << 20
ONE, TWO = (0, 0, 0), (0, 0, 1)


def chosen(topology=TWO, path=HOST, nbytes=MIB, asked=None, sent_at_once=60 * KIB):
    """(between nodes, inside one) of ranks like these."""
    signature = Signature("allreduce", nbytes // 4, "float32", "sum", "ring")
    return _segments(Facts(signature, topology, topology, sent_at_once), path, asked)


@pytest.mark.parametrize("path", [HOST, STAGED, AWARE, PEER])
def test_what_is_not_known_to_be_sent_at_once_is_the_default_everywhere(path):
    assert chosen(path=path, sent_at_once=None) == (SEGMENTS[path],) * 2
    assert chosen(ONE, path=path, sent_at_once=None) == (SEGMENTS[path],) * 2


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ({}, (60 * KIB, 4 * MIB)),
        ({"nbytes": LARGEST_AT_ONCE}, (60 * KIB, 4 * MIB)),
        ({"nbytes": LARGEST_AT_ONCE + 4}, (4 * MIB, 4 * MIB)),
        ({"sent_at_once": 32 * MIB}, (4 * MIB, 4 * MIB)),
        ({"path": STAGED}, (MIB, MIB)),
    ],
)
def test_what_is_sent_at_once_is_for_small_buffers_between_nodes(case, expected):
    assert chosen(**case) == expected


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (8 * KIB, (8 * KIB, 4 * MIB)),
        (16 * MIB, (16 * MIB, 16 * MIB)),
        (0, (LARGEST_MESSAGE, LARGEST_MESSAGE)),
        (1 << 40, (LARGEST_MESSAGE, LARGEST_MESSAGE)),
    ],
)
def test_what_is_asked_for_is_for_the_network_where_there_is_one(asked, expected):
    assert chosen(asked=asked) == expected
    assert chosen(ONE, asked=asked) == (expected[0],) * 2


def test_the_defaults_are_those_that_the_readme_states():
    assert SEGMENTS == {HOST: 4 * MIB, STAGED: MIB, AWARE: 4 * MIB, PEER: 16 * MIB}


def test_ranks_of_one_host_send_nothing_over_tcp():
    assert transport_of(MPI.COMM_WORLD).sent_at_once is None
