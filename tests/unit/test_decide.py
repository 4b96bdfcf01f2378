"""What is decided from what ranks know, as a table: no rank is asked."""

import pytest

from hpcdist.collectives.decide import decide
from hpcdist.collectives.facts import NO_FLAGS, NOT_ONE_NODE, Facts
from hpcdist.collectives.signature import Signature
from hpcdist.device import paths
from hpcdist.errors import ArgumentError
from hpcdist.transport.shared_memory import NOBODY
from hpcdist.tuning.table import Bracket, Rule, Selection

ONE, TWO = (0, 0, 0, 0), (0, 0, 1, 1)
PLACES = "the ranks' results lie in arrays of different calls of hpcdist.empty"
RING = Selection([Rule(4, 1, "float32", [Bracket(None, "ring", 1 << 16)])])


def facts(algorithm="auto", nbytes=1 << 20, hosts=ONE, **known):
    signature = Signature("allreduce", nbytes // 4, "float32", "sum", algorithm)
    usual = {"compiled": True, "not_in_place": NOBODY, "not_bounced": None if hosts == ONE else NOT_ONE_NODE}
    return Facts(signature, hosts, hosts, **usual | known)


@pytest.mark.parametrize(
    ("known", "algorithm", "bounced"),
    [
        (facts(), "shared", True),
        (facts(nbytes=8), "shared", True),
        (facts(not_bounced=NO_FLAGS, compiled=False), "binary_blocks", False),
        (facts(not_in_place=None), "shared", False),
        (facts(not_in_place=None, nbytes=4096), "shared", True),
        (facts(not_in_place=None, nbytes=4100), "shared", False),
        (facts(not_in_place=None, not_bounced=NO_FLAGS, compiled=False), "shared", False),
        (facts(not_in_place=PLACES), "shared", True),
        (facts("ring"), "ring", False),
        (facts("ring", not_in_place=None), "ring", False),
        (facts("shared"), "shared", True),
        (facts("shared:ring", hosts=TWO, not_in_place=None), "shared:ring", False),
    ],
)
def test_the_algorithm_and_whether_arrays_pass_through_bounce_buffers(known, algorithm, bounced):
    decision = decide(known, None)
    assert (decision.signature.algorithm, decision.bounced) == (algorithm, bounced)
    assert decision.path == "host"


def test_few_bytes_in_memory_of_others_are_sent_where_waiting_is_not_compiled():
    known = facts(nbytes=512, not_in_place=None, not_bounced=NO_FLAGS, compiled=False)
    decision = decide(known, None)
    assert decision.signature.algorithm != "shared"
    assert "faster in messages" in decision.why


def test_between_nodes_arrays_that_are_shared_are_used_inside():
    decision = decide(facts(hosts=TWO, not_in_place=None, nbytes=1 << 24), None)
    assert decision.signature.algorithm.partition(":")[0] in ("shared", "ring", "halving_doubling")
    assert not decision.bounced


def test_a_table_goes_before_bounce_buffers():
    decision = decide(facts(), RING)
    assert (decision.signature.algorithm, decision.segment_nbytes, decision.bounced) == ("ring", 1 << 16, False)


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (facts("shared", not_bounced=NO_FLAGS, compiled=False), "compiled code on all ranks"),
        (facts("shared", hosts=TWO), "no rank's result lies in an array of hpcdist.empty"),
        (facts("shared", hosts=TWO, not_in_place=PLACES), "different calls of hpcdist.empty"),
    ],
)
def test_what_is_asked_for_and_cannot_be_is_refused(known, why):
    with pytest.raises(ArgumentError, match=why):
        decide(known, None)


@pytest.mark.parametrize(
    ("device", "path", "algorithm"),
    [
        (paths.Facts(1, None, None, None, "nobody"), "peer", "shared"),
        (paths.Facts(2, None, None, True, "a probe"), "aware", "binary_blocks"),
        (paths.Facts(2, None, None, None, "nobody"), "staged", "binary_blocks"),
    ],
)
def test_the_path_of_device_memory_decides_with(device, path, algorithm):
    decision = decide(facts(device=device), None)
    assert (decision.path, decision.signature.algorithm, decision.bounced) == (path, algorithm, False)


def test_a_decision_says_why():
    decision = decide(facts(not_in_place=PLACES), None)
    assert "not in the arrays themselves" in decision.why
    assert "all ranks are on one node" in decision.why
