"""The proof itself is on trial: it must reject every schedule that is wrong, and point at the step that is."""

from dataclasses import astuple, replace
from itertools import product

import numpy as np
import pytest

from hpcdist import algorithms, verify
from hpcdist.errors import ScheduleError
from hpcdist.schedule.ir import Rows, Schedule, Step, Transfer, reduce_scatter_to

# --- mutations, judged by arithmetic that knows nothing of the proof ---


def play(transfers, size, chunks, inputs):
    """Steps of transfers on plain integers, one list of chunks per rank; None if no meaning can be given to them."""
    state = [list(row) for row in inputs]
    for step in transfers:
        before = [list(row) for row in state]
        touched = {}
        for src, dst, src_chunk, dst_chunk, count, reduce in map(astuple, step):
            if not (0 <= src < size and 0 <= dst < size and src != dst):
                return None
            if min(src_chunk, dst_chunk) < 0 or max(src_chunk, dst_chunk) + count > chunks:
                return None
            for k in range(count):
                touched.setdefault((dst, dst_chunk + k), []).append(reduce)
                old = state[dst][dst_chunk + k] if reduce else 0
                state[dst][dst_chunk + k] = old + before[src][src_chunk + k]
        if any(len(writes) > 1 and not all(writes) for writes in touched.values()):
            return None  # an overwrite and another write: the result depends on the order
    return state


def is_all_reduce(transfers, size, chunks):
    """Whether every rank ends with the sum, for integers too large and too random to add up by chance."""
    inputs = np.random.default_rng(size).integers(1 << 40, 1 << 60, (size, chunks)).tolist()
    state = play(transfers, size, chunks, inputs)
    return state == [[sum(column) for column in zip(*inputs, strict=True)]] * size


def mutations(steps, size):
    """Every change of a single transfer: (what was done, steps)."""
    for number, index in ((n, i) for n, step in enumerate(steps) for i in range(len(step))):
        row = steps[number][index]

        def with_rows(rows, number=number, index=index):
            step = steps[number]
            return [*steps[:number], [*step[:index], *rows, *step[index + 1 :]], *steps[number + 1 :]]

        where = f"step {number}, {row}"
        yield f"drop {where}", with_rows([])
        yield f"duplicate {where}", with_rows([row, row])
        yield f"flip reduce of {where}", with_rows([replace(row, reduce=not row.reduce)])
        for field in ("src_chunk", "dst_chunk"):
            for by in (-1, 1):
                yield (
                    f"shift {field} by {by} of {where}",
                    with_rows([replace(row, **{field: getattr(row, field) + by})]),
                )
        both = replace(row, src_chunk=row.src_chunk + 1, dst_chunk=row.dst_chunk + 1)
        yield f"shift both chunks of {where}", with_rows([both])
        for by in (-1, 1):
            yield f"change count by {by} of {where}", with_rows([replace(row, count=row.count + by)])
        for field, rank in product(("src", "dst"), range(size)):
            if rank != getattr(row, field):
                yield f"set {field} to {rank} of {where}", with_rows([replace(row, **{field: rank})])


def rows_of(schedule):
    return [list(step.rows()) for step in schedule.steps]


def scheduled(schedule, steps):
    """`schedule` with other steps, whose rows are given."""
    columns = [list(zip(*map(astuple, rows), strict=True)) or [()] * 6 for rows in steps]
    made = [Rows(*(np.array(c, np.int64) for c in cs[:5]), np.array(cs[5], bool)) for cs in columns]
    return replace(schedule, steps=tuple(map(Step.of, made)), alike=False)


def accepts(schedule):
    try:
        verify(schedule)
    except ScheduleError:
        return False
    return True


@pytest.mark.paired(times=3)
@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_every_change_of_one_transfer_is_rejected_or_harmless(name, size):
    schedule = algorithms.allreduce(name, size, [rank % 2 for rank in range(size)])
    steps = rows_of(schedule)
    assert is_all_reduce(steps, size, schedule.chunks)
    for what, mutant in mutations(steps, size):
        harmless = is_all_reduce(mutant, size, schedule.chunks)
        assert accepts(scheduled(schedule, mutant)) == harmless, f"{name} on {size} ranks: {what}"


def test_the_judge_of_mutations_is_neither_a_yes_man_nor_a_no_man():
    """The few harmless ones write only what is overwritten later, or bring a contribution by a shorter way."""
    mutants = list(mutations(rows_of(algorithms.ring(4)), 4))
    harmless = [what for what, mutant in mutants if is_all_reduce(mutant, 4, 4)]
    assert len(mutants) == 24 * (3 + 4 + 1 + 2 + 6)
    assert "set dst to 2 of step 0, 0->1 c0+" in harmless
    assert 0 < len(harmless) < len(mutants) / 8
    assert not [what for what in harmless if what.startswith(("drop", "duplicate", "flip"))]


@pytest.mark.parametrize("phase", algorithms.SCATTER_REDUCE)
def test_no_transfer_of_a_scatter_reduce_or_all_gather_can_be_missing(phase):
    for schedule in (algorithms.SCATTER_REDUCE[phase](6), algorithms.ALL_GATHER[phase](6)):
        steps = rows_of(schedule)
        for what, mutant in mutations(steps, 6):
            if what.startswith("drop"):
                assert not accepts(scheduled(schedule, mutant)), f"{schedule.name}: {what}"


@pytest.mark.parametrize("size", [400, 1000])
def test_large_worlds_are_proven_with_random_tokens_which_find_a_single_wrong_transfer(size):
    schedule = algorithms.halving_doubling(size)
    steps = rows_of(schedule)
    assert size**2 * schedule.chunks > 1 << 25
    numbers = np.random.default_rng(size)
    for number in numbers.choice(len(steps), 4, replace=False):
        row = steps[number].pop(int(numbers.integers(len(steps[number]))))
        assert not accepts(scheduled(schedule, steps)), f"without {row} in step {number}"
        steps[number].append(row)
    verify(scheduled(schedule, steps))


def test_an_all_gather_with_two_chunks_exchanged_is_rejected():
    """Every rank hears from every other, but puts the chunks in the wrong places."""
    schedule = algorithms.ALL_GATHER["direct"](3)
    (step,) = rows_of(schedule)
    twisted = [replace(row, dst_chunk=3 - row.src - row.dst) for row in step]
    assert not accepts(scheduled(schedule, [twisted]))


def test_an_alltoall_that_sends_the_wrong_part_is_rejected():
    schedule = algorithms.pairwise(3)
    steps = rows_of(schedule)
    steps[1][0] = replace(steps[1][0], src_chunk=3)
    assert not accepts(scheduled(schedule, steps))


# --- what the error says ---


def two_ranks(*steps):
    return Schedule("mine", 2, 1, tuple(Step.of(Rows.of(*columns, 0, reduce=reduce)) for *columns, reduce in steps))


def test_a_contribution_added_twice_is_traced_to_the_step_that_did_it():
    wrong = two_ranks(([0], [1], True), ([0], [1], True), ([1], [0], False))
    with pytest.raises(ScheduleError) as raised:
        verify(wrong)
    assert str(raised.value) == "\n".join(
        [
            "mine on 2 ranks, step 1: rank 0 ends with 2 copies of rank 0's chunk 0, not 1; the trail leads here.",
            "mine: 2 ranks, 1 chunks, 3 steps",
            "0: 0->1 c0+",
            "1: 0->1 c0+   <-- here",
            "2: 1->0 c0",
        ]
    )


def test_a_missing_contribution_is_traced_to_the_step_that_lost_it():
    """Rank 1 overwrites its own where it should add."""
    wrong = two_ranks(([0], [1], False), ([1], [0], False))
    with pytest.raises(ScheduleError, match=r"step 0: rank 0 ends with 0 copies of rank 1's chunk 0, not 1") as raised:
        verify(wrong)
    assert "0: 0->1 c0   <-- here" in str(raised.value)


@pytest.mark.parametrize("number", range(6))
def test_a_transfer_missing_from_a_ring_is_missed_with_one_step_marked(number):
    steps = rows_of(algorithms.ring(4))
    del steps[number][0]
    with pytest.raises(ScheduleError, match=r"ends with 0 copies of rank \d's chunk \d, not 1") as raised:
        verify(scheduled(algorithms.ring(4), steps))
    assert str(raised.value).count("<-- here") == 1


@pytest.mark.parametrize("number", range(3))
def test_a_wrong_chunk_is_traced_to_the_step_that_sent_it(number):
    steps = rows_of(algorithms.ring(4))
    row = steps[number][0]
    steps[number][0] = replace(row, src_chunk=(row.src_chunk + 1) % 4)
    with pytest.raises(ScheduleError, match=rf"step {number}: rank \d ends with 0 copies of rank 0's chunk"):
        verify(scheduled(algorithms.ring(4), steps))


def test_a_foreign_chunk_on_top_of_a_right_sum_is_traced_to_its_step():
    steps = [*rows_of(algorithms.ring(3)), [Transfer(0, 1, 0, 2, 1, True)]]
    with pytest.raises(ScheduleError, match="step 4: rank 1 ends with more than chunk 2 in it"):
        verify(scheduled(algorithms.ring(3), steps))


@pytest.mark.parametrize("size", [4, 700], ids=["exact", "random"])
def test_three_of_one_chunk_are_not_taken_for_one_of_another(size):
    """Nor may any other sum of wrong tokens equal the right one."""
    away = [Transfer(rank, 0, 0, 1, 1, True) for rank in range(1, size)]
    wrong = Schedule("mine", size, 2000, (), reduce_scatter_to([0] * 2000))
    with pytest.raises(ScheduleError, match="ends with 0 copies"):
        verify(scheduled(wrong, [away, away, away]))


def test_a_schedule_without_steps_reduces_nothing():
    with pytest.raises(ScheduleError, match="ends with 0 copies"):
        verify(Schedule("nothing", 2, 1, ()))
    verify(Schedule("nothing", 1, 1, ()))


GOOD = Transfer(0, 1, 0, 0, 1, True)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (replace(GOOD, src=-1), r"sends from a rank outside 0\.\.2"),
        (replace(GOOD, src=3), r"sends from a rank outside 0\.\.2"),
        (replace(GOOD, dst=3), r"sends to a rank outside 0\.\.2"),
        (replace(GOOD, dst=0), "sends to itself"),
        (replace(GOOD, count=0), "moves no chunk"),
        (replace(GOOD, count=-1), "moves no chunk"),
        (replace(GOOD, src_chunk=-1), "reads chunks that do not exist"),
        (replace(GOOD, src_chunk=3), "reads chunks that do not exist"),
        (replace(GOOD, dst_chunk=2, count=2), "writes chunks that do not exist"),
    ],
)
def test_a_malformed_transfer_is_named_with_its_step(row, why):
    wrong = scheduled(algorithms.ring(3), [[], [row]])
    with pytest.raises(ScheduleError, match=rf"ring on 3 ranks, step 1: .*{why}"):
        verify(wrong)


def test_nobody_writes_into_an_input():
    wrong = scheduled(algorithms.pairwise(2), [[Transfer(0, 1, 2, 2, 1, False)]])
    with pytest.raises(ScheduleError, match="writes into the input"):
        verify(wrong)


def test_a_range_does_not_reach_from_the_buffer_into_the_input():
    wrong = scheduled(algorithms.pairwise(2), [[Transfer(0, 1, 1, 0, 2, False)]])
    with pytest.raises(ScheduleError, match="reads chunks that do not exist"):
        verify(wrong)


@pytest.mark.parametrize("reduce", [False, True])
def test_an_overwrite_and_another_write_in_one_place_and_step_clash(reduce):
    step = [Transfer(0, 2, 0, 0, 2, False), Transfer(1, 2, 1, 1, 1, reduce)]
    for rows in (step, step[::-1]):
        with pytest.raises(ScheduleError, match="rank 2's chunk 1 is overwritten and written again in one step"):
            verify(scheduled(algorithms.ring(3), [rows]))


def test_an_empty_world_is_malformed():
    with pytest.raises(ScheduleError, match="1 is the least"):
        verify(Schedule("none", 0, 1, ()))
    with pytest.raises(ScheduleError, match="1 is the least"):
        verify(Schedule("none", 1, 0, ()))
