"""What lowering makes of a schedule is rehearsed in many legal orders; and the rehearsal finds broken lowering."""

from dataclasses import replace
from itertools import pairwise

import pytest
from matrix import WHOLE

from hpcdist import algorithms, verify
from hpcdist.errors import ScheduleError
from hpcdist.schedule import lower as lowering
from hpcdist.schedule.ir import Rows, Step
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.schedule.order import Act, in_order
from hpcdist.schedule.program import HERE, Kind
from hpcdist.schedule.reach import reach
from hpcdist.simulate import interleavings
from hpcdist.simulate.interleavings import accesses, meet
from hpcdist.simulate.interleavings import rehearse as play

DRIVERS = ["any", "in_order"]
STAGED = pytest.mark.parametrize("staged", [False, True], ids=["", "staged"])


def lowered(schedule, count, segment, rank=0, staged=False, **how):
    return lower(schedule, rank, Layout.near_equal(schedule, count), segment, staged, **how)


# --- rehearsals ---


@pytest.mark.paired(times=6)
@STAGED
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_no_order_that_the_dependencies_allow_is_wrong_or_stuck(name, size, driver, staged):
    schedule = algorithms.allreduce(name, size, [rank % 2 for rank in range(size)])
    for count in {0, 1, size - 1, 2 * size + 1}:
        for segment in (1, 2, 100) if size < 6 else (2, 100):
            play(schedule, count, segment, seed=count + segment, driver=driver, staged=staged)


@pytest.mark.paired
@STAGED
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_many_random_orders_end_alike(name, driver, staged):
    schedule = algorithms.allreduce(name, 4, [0, 0, 0, 1])
    for seed in range(25 if WHOLE else 10):
        play(schedule, 9, 1, seed, driver, staged)


@pytest.mark.paired
@STAGED
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", ["ring", "binary_blocks", "hierarchical"])
def test_larger_worlds_are_rehearsed_too(name, driver, staged):
    play(algorithms.allreduce(name, 13, [rank // 4 for rank in range(13)]), 40, 3, driver=driver, staged=staged)


@pytest.mark.paired
@STAGED
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_messages_to_each_peer_may_be_cut_in_their_own_way(name, driver, staged):
    """As they are between nodes and inside one; at 1 and at 7 elements, and at more than there are."""
    nodes = [0, 0, 1, 1, 1, 2]
    between_and_inside = ((1, 7), (7, 1), (2, 100))
    for seed, (between, inside) in enumerate(between_and_inside):
        segments = [[inside if here == there else between for there in nodes] for here in nodes]
        play(algorithms.allreduce(name, len(nodes), nodes), 41 if WHOLE else 23, segments, seed, driver, staged)


def test_what_two_ranks_cut_in_different_ways_is_found_out():
    with pytest.raises(ScheduleError):
        play(algorithms.ring(3), 12, [[2, 2, 2], [2, 2, 2], [3, 3, 3]])


def swapping():
    """An all-reduce of two ranks that then exchange their results, each receiving over what it sends."""
    schedule = algorithms.recursive_doubling(2)
    swap = Step.of(Rows.of([0, 1], [1, 0], 0, reduce=False))
    return replace(schedule, name="swapping", steps=(*schedule.steps, swap, swap))


@STAGED
@pytest.mark.parametrize("driver", DRIVERS)
def test_ranks_that_receive_over_what_they_send_are_rehearsed(driver, staged):
    verify(swapping())
    for seed in range(10):
        play(swapping(), 5, 2, seed, driver, staged)


# --- ranks that reach each other's memory ---

NODES = {"one node": lambda rank: 0, "two": lambda rank: rank % 2, "pairs": lambda rank: rank // 2}


@pytest.mark.paired(times=6)
@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("node_of", NODES.values(), ids=NODES)
@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("name", [*algorithms.ALLREDUCE, "shared", "shared:ring", "one_shot", "two_shot:3"])
def test_any_schedule_runs_in_memory_that_ranks_reach(name, size, node_of, driver):
    """Whatever part of the ranks does, from the buffer or from an input of its own."""
    nodes = [node_of(rank) for rank in range(size)]
    schedule = algorithms.allreduce(name, size, nodes)
    for seed, count in enumerate((0, 1, 2 * size + 1)):
        for reads_input in (False, True):
            how = {"average": bool(seed % 2), "nodes": nodes, "reads_input": reads_input}
            play(schedule, count, 2, seed, driver, **how)


def test_ranks_that_overwrite_what_others_read_put_it_aside_first():
    schedule = algorithms.recursive_doubling(4)
    found = reach(schedule, range(4))
    assert found.boxed == {0, 1}
    kinds = [op.kind for op in lowered(schedule, 8, 8, reachable=found).operations]
    assert kinds == [Kind.BARRIER, Kind.COPY, Kind.BARRIER, Kind.REDUCE] * 2  # none reads after the last one


def test_a_barrier_that_is_missing_is_found_out(monkeypatch):
    """Any of them: somebody then touches what another rank may still be at."""
    for name in ("shared", "ring", "recursive_doubling"):
        schedule = algorithms.allreduce(name, 3)
        whole = lowered(schedule, 9, 9, reachable=reach(schedule, range(3))).operations
        for missing in range(sum(op.kind is Kind.BARRIER for op in whole)):

            def careless(*arguments, missing=missing, **how):
                made = lower(*arguments, **how)
                gone = [number for number, op in enumerate(made.operations) if op.kind is Kind.BARRIER][missing]
                operations = [
                    replace(op, after=tuple(n - (n > gone) for n in op.after if n != gone))
                    for number, op in enumerate(made.operations)
                    if number != gone
                ]
                return replace(made, operations=tuple(operations))

            with monkeypatch.context() as patch:
                patch.setattr(interleavings, "lower", careless)
                said = []
                for seed in range(10):
                    try:
                        play(schedule, 9, 9, seed, nodes=[0, 0, 0])
                    except ScheduleError as error:
                        said.append(str(error))
                assert any("since the last barrier" in text for text in said), (name, missing)


# --- a proof without an order: whatever touches the same elements, and writes, is ordered by what it is `after` ---


def unordered(operations):
    """Pairs of operations that meet, of which one writes, though nothing says that the one waits for the other."""
    before = []
    for number, op in enumerate(operations):
        before.append(set(op.after).union(*(before[first] for first in op.after)))
        for earlier in set(range(number)) - before[number]:
            if any(meet(a, b) for a in accesses(op, HERE) for b in accesses(operations[earlier], HERE)):
                yield earlier, number


@pytest.mark.paired(times=4)
@STAGED
@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_operations_that_meet_are_ordered(name, size, staged):
    schedule = algorithms.allreduce(name, size, [rank % 2 for rank in range(size)])
    for count, segment in ((1, 1), (size + 1, 1), (2 * size + 1, 2)):
        for rank in range(size):
            assert not list(unordered(lowered(schedule, count, segment, rank, staged).operations))


@pytest.mark.parametrize("kind", Kind)
def test_an_edge_that_is_missing_is_found(kind):
    """Where several say the same, all of an operation go; of each kind at least one is needed by somebody."""
    if kind is Kind.BARRIER:
        pytest.skip("orders ranks: see below")
    found = 0
    operations = lowered(algorithms.ring(5), 23, 2, staged=True, average=True).operations
    for number, op in enumerate(operations):
        if op.kind is kind and op.after:
            broken = (*operations[:number], replace(op, after=()), *operations[number + 1 :])
            found += bool(list(unordered(broken)))
    assert found >= (3 if kind is Kind.DIVIDE else 5)


# --- the rehearsal on trial: each of these breaks one rule of lowering or of the driver ---


def found(schedule, driver, seeds=range(10), staged=False):
    """What the rehearsal says, over some seeds, of a lowering that was broken."""
    said = []
    for seed in seeds:
        try:
            play(schedule, 9, 2, seed, driver, staged)
        except ScheduleError as error:
            said.append(str(error))
    return said


@STAGED
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_operations_without_dependencies_are_found_out(name, staged, monkeypatch):
    def careless(*arguments, **how):
        made = lower(*arguments, **how)
        return replace(made, operations=tuple(replace(op, after=()) for op in made.operations))

    monkeypatch.setattr(interleavings, "lower", careless)
    assert found(algorithms.allreduce(name, 4, [0, 0, 1, 1]), "any", staged=staged)


BOXES = {"outbox": (Kind.COPY, Kind.SEND), "inbox": (Kind.RECV, Kind.REDUCE)}  # who writes, and who must be done first


@pytest.mark.parametrize("box", BOXES)
def test_a_box_that_is_used_again_too_early_is_found_out(box, monkeypatch):
    """What writes into it does not wait for those that read what was in it before."""
    writes, reads = BOXES[box]

    def careless(*arguments, **how):
        made = lower(*arguments, **how)
        kept = {number for number, op in enumerate(made.operations) if op.kind is not reads}
        return replace(
            made,
            operations=tuple(
                replace(op, after=tuple(kept & set(op.after)))
                if op.kind is writes and op.start >= made.inbox_start
                else op
                for op in made.operations
            ),
        )

    monkeypatch.setattr(interleavings, "lower", careless)
    assert any("has in flight" in said for said in found(algorithms.ring(4), "any", staged=True))


def test_a_write_that_does_not_wait_for_readers_is_found_out(monkeypatch):
    keep = lowering._Hazards.write

    def careless(hazards, operation, start, stop):
        writers = {hazards.writer[part] for part in hazards._parts(start, stop)} - {None}
        return keep(hazards, operation, start, stop) & writers

    monkeypatch.setattr(lowering._Hazards, "write", careless)
    assert found(algorithms.recursive_doubling(4), "any")


def test_a_read_that_does_not_wait_for_the_writer_is_found_out(monkeypatch):
    keep = lowering._Hazards.read

    def careless(*arguments):
        keep(*arguments)
        return set()

    monkeypatch.setattr(lowering._Hazards, "read", careless)
    assert found(algorithms.ring(4), "any")


def test_a_receive_over_what_is_being_sent_is_found_to_deadlock(monkeypatch):
    """Each rank's receive waits for its send to be complete, and its send for the other's receive."""

    def careless(self, number, messages):
        return {index: m.count for index, m in enumerate(messages) if self._receives(m) and m.row.reduce}

    monkeypatch.setattr(lowering._Lowering, "_incoming", careless)
    for driver in DRIVERS:
        assert all("nobody can go on" in said for said in found(swapping(), driver))
        assert found(swapping(), driver)


def test_a_driver_that_does_not_wait_is_found_out(monkeypatch):
    def hasty(operations):
        return [(act, number) for act, number in in_order(operations) if act is not Act.WAIT]

    monkeypatch.setattr(interleavings, "in_order", hasty)
    assert any("before what it depends on is complete" in said for said in found(algorithms.ring(4), "in_order"))


def test_a_driver_that_lets_messages_of_a_pair_overtake_is_found_out(monkeypatch):
    def unordered(operations):
        order = in_order(operations)
        sends = [i for i, (act, n) in enumerate(order) if act is Act.START and operations[n].kind is Kind.SEND]
        order[sends[0]], order[sends[1]] = order[sends[1]], order[sends[0]]
        return order

    monkeypatch.setattr(interleavings, "in_order", unordered)
    assert any("overtakes an earlier message" in said for said in found(algorithms.tree(2), "in_order"))


# --- the program itself ---


def test_with_segments_a_chunk_is_forwarded_as_soon_as_its_own_segment_is_there():
    operations = lowered(algorithms.ring(4), 40, 2, rank=1).operations
    forwarded = [op for op in operations if op.kind is Kind.SEND and op.step > 0]
    assert len(forwarded) == 5 * 5
    for op in forwarded:
        (number,) = op.after
        source = operations[number]
        assert (source.start, source.stop, source.step) == (op.start, op.stop, op.step - 1)
        assert source.kind is (Kind.REDUCE if op.step <= 3 else Kind.RECV)


def test_every_message_is_received_in_as_many_pieces_as_it_is_sent():
    schedule = algorithms.binary_blocks(6)
    programs = [lowered(schedule, 31, 3, rank).operations for rank in range(6)]
    for src, operations in enumerate(programs):
        for dst in range(6):
            sent = [op.count for op in operations if op.kind is Kind.SEND and op.peer == dst]
            received = [op.count for op in programs[dst] if op.kind is Kind.RECV and op.peer == src]
            assert sent == received


def test_no_operation_depends_on_a_later_one():
    for name in algorithms.ALLREDUCE:
        for rank in range(5):
            operations = lowered(algorithms.allreduce(name, 5), 23, 2, rank).operations
            assert all(dependency < number for number, op in enumerate(operations) for dependency in op.after)


def test_chunks_without_elements_move_nothing():
    operations = lowered(algorithms.ring(8), 1, 1, rank=3).operations
    assert {op.count for op in operations} == {1}
    assert lowered(algorithms.ring(8), 0, 1).operations == ()


def test_the_operand_of_the_lower_rank_comes_first():
    for rank in range(4):
        for op in lowered(algorithms.recursive_doubling(4), 4, 4, rank).operations:
            if op.kind is Kind.REDUCE:
                incoming = [place.start >= 4 for place in op.operands]  # in the inbox, behind the buffer
                assert incoming == ([True, False] if op.peer < rank else [False, True])


def test_an_inbox_holds_two_steps_and_no_more():
    assert lowered(algorithms.ring(8), 80, 3).inbox == 20
    assert lowered(algorithms.recursive_doubling(8), 80, 3).inbox == 160
    assert lowered(algorithms.bcast(8, 0), 80, 3).inbox == 0


@pytest.mark.parametrize("name", [*algorithms.ALLREDUCE, "bcast", "pairwise"])
def test_a_staged_program_sends_from_the_outbox_and_receives_into_the_inbox(name):
    relatives = {"bcast": algorithms.bcast(5, 2), "pairwise": algorithms.pairwise(5)}
    schedule = relatives.get(name) or algorithms.allreduce(name, 5)
    layout = Layout.near_equal(schedule, 23, 23 if schedule.input_chunks else 0)
    for rank in range(5):
        made = lower(schedule, rank, layout, 2, staged=True)
        end = made.outbox_start + made.outbox
        for op in made.operations:
            if op.kind is Kind.SEND:
                assert made.outbox_start <= op.start < op.stop <= end
            elif op.kind is Kind.RECV:
                assert made.inbox_start <= op.start < op.stop <= made.outbox_start
            elif op.start < made.inbox_start:
                assert op.stop <= layout.count
                assert all(place.start + op.count <= made.outbox_start for place in op.operands)
            else:
                assert op.kind is Kind.COPY
                assert made.outbox_start <= op.start < op.stop <= end
                assert all(place.start + op.count <= layout.length for place in op.operands)


def test_what_goes_to_several_ranks_is_copied_out_once():
    made = lowered(algorithms.direct(5), 50, 100, staged=True)
    assert [
        (op.step, op.count) for op in made.operations if op.start >= made.outbox_start and op.kind is Kind.COPY
    ] == [
        *[(0, 10)] * 4,
        (1, 10),
    ]
    assert made.outbox == 40 + 10


def test_staged_boxes_hold_two_steps_and_no_more():
    for schedule, inbox, outbox in (
        (algorithms.ring(8), 20, 20),
        (algorithms.recursive_doubling(8), 160, 160),
        (algorithms.bcast(8, 0), 0, 160),
        (algorithms.ring(1), 0, 0),
    ):
        made = lowered(schedule, 80, 3, staged=True)
        assert (made.inbox, made.outbox) == (inbox, outbox)
        assert made.outbox_start == 80 + inbox
    assert lowered(algorithms.ring(8), 80, 3).outbox == 0


@STAGED
def test_in_order_starts_each_message_waits_for_it_and_does_everything_once(staged):
    for name in algorithms.ALLREDUCE:
        operations = lowered(algorithms.allreduce(name, 5), 23, 2, 2, staged).operations
        order = in_order(operations)
        for number, op in enumerate(operations):
            messages = op.kind in (Kind.SEND, Kind.RECV)
            acts = [act for act, n in order if n == number]
            assert acts == ([Act.START, Act.WAIT] if messages else [Act.DO])


def test_a_rank_or_segment_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"for ranks 0\.\.3; there is no rank 4"):
        lowered(algorithms.ring(4), 8, 1, rank=4)
    with pytest.raises(ValueError, match="at least 1 element, not 0"):
        lowered(algorithms.ring(4), 8, 0)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 1 << 40])
def test_chunks_are_near_equal_and_leave_nothing_out(count):
    layout = Layout(7, count)
    starts = [layout.start(chunk) for chunk in range(8)]
    sizes = {b - a for a, b in pairwise(starts)}
    assert (starts[0], starts[-1]) == (0, count)
    assert max(sizes) - min(sizes) <= 1
