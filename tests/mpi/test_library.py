"""The MPI library's own algorithms, one by one."""

import numpy as np
import pytest
from mpi4py import MPI

from hpcdist.errors import AgreedError
from hpcdist.mpi.cvars import Control, setting
from hpcdist.sweep import library
from hpcdist.sweep.measure import Bench, Effort, Point, distinct
from hpcdist.sweep.record import FIXED, LIBRARY

pytestmark = pytest.mark.mpi

WORLD = MPI.COMM_WORLD
OPEN_MPI = "Open MPI" in MPI.Get_library_version()
KNOWN = (
    {"auto", "basic_linear", "nonoverlapping", "recursive_doubling", "ring", "segmented_ring", "rabenseifner"}
    if OPEN_MPI
    else {"auto", "nb", "smp", "recursive_doubling", "reduce_scatter_allgather", "tree", "recexch", "ring"}
)
VARIABLES = (
    ("coll_tuned_use_dynamic_rules", "coll_tuned_priority", "coll_tuned_allreduce_algorithm",
     "coll_tuned_allreduce_algorithm_segmentsize")
    if OPEN_MPI
    else ("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM", "MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE")
)  # fmt: skip
POINT = Point(64 * WORLD.size, np.dtype("float64"), "sum")


@pytest.fixture
def fixed():
    found = library.find(WORLD)
    yield found
    found.close()


def variables():
    return [Control(name).value for name in VARIABLES]


def ring_sum():
    """The sum of what `result` adds, in the order of a ring: part c begins with rank c + 1 or c, all the way round."""
    numbers = [np.random.default_rng(rank).standard_normal(64 * WORLD.size) for rank in range(WORLD.size)]
    sums = []
    for first in (0, 1):
        parts = []
        for c in range(WORLD.size):
            total = np.zeros(64)
            for turn in range(WORLD.size):
                total = numbers[(c + first + turn) % WORLD.size][64 * c : 64 * (c + 1)] + total * (turn > 0)
            parts.append(total)
        sums.append(np.concatenate(parts).tobytes())
    return sums


def result(forced):
    """The bits of a sum, which tell in which order an algorithm adds."""
    numbers = np.random.default_rng(WORLD.rank).standard_normal(64 * WORLD.size)
    with forced.chosen():
        forced.comm.Allreduce(MPI.IN_PLACE, numbers)
    return numbers.tobytes()


def test_the_names_are_those_that_the_library_gives(fixed):
    assert {FIXED + name for name in KNOWN} <= set(fixed.names)
    assert not {FIXED + "ignore", FIXED + "ccl"} & set(fixed.names)


def test_the_ring_adds_in_the_order_of_a_ring(fixed):
    assert result(fixed.forced(FIXED + "ring")) in ring_sum()
    if WORLD.size > 3:
        assert result(fixed.forced(FIXED + "recursive_doubling")) not in ring_sum()


def test_nothing_stays_set(fixed):
    before = variables()
    kept = [fixed.forced(name) for name in fixed.names]
    for forced in kept:
        result(forced)
        assert variables() == before


def test_variables_are_set_back_after_an_error():
    control = Control(VARIABLES[0])
    before = control.value

    def fail():
        with setting({control: 1 - before}):
            assert control.value == 1 - before
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert control.value == before


def test_a_variable_that_there_is_not_is_named():
    with pytest.raises(LookupError, match="no control variable no_such_thing"):
        Control("no_such_thing")


@pytest.mark.every_size
def test_every_algorithm_is_right_in_every_segment_and_timed(fixed):
    names = [LIBRARY, *fixed.names]
    with Bench(WORLD, POINT, names, (64, 256), library=fixed) as bench:
        bench.warm_up(Effort(samples=3, iterations=2))
        bench.check()
        for _ in bench.rounds():
            pass
        assert {case.algorithm: str(case.bad) for case in bench.cases if case.bad} == {}
        assert {case.algorithm for case in bench.cases} == set(names)
        assert all((bench.seconds(case) > 0).all() for case in bench.cases)
        segments = {case.segment_nbytes for case in bench.cases if case.algorithm == FIXED + "segmented_ring"}
        assert segments == ({64, 256} if OPEN_MPI else set())
        assert len(bench.cases) == 2 * (len(names) + OPEN_MPI)


def test_a_bench_calls_the_algorithm_that_it_names(fixed):
    with Bench(WORLD, POINT, [FIXED + "ring"], library=fixed, placements=("in_place",)) as bench:
        (case,) = bench.cases
        bench.target[:] = np.random.default_rng(WORLD.rank).standard_normal(64 * WORLD.size)
        with case.chosen():
            case.call()
        assert bench.target.tobytes() in ring_sum()


def test_a_tuning_file_in_force_is_refused_on_all_ranks(monkeypatch):
    monkeypatch.setattr(Control, "text", "/some/rules.conf")
    monkeypatch.setenv("MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE", "/some/rules.conf")
    needed = {Control("coll_tuned_use_dynamic_rules"): 1} if OPEN_MPI else {}
    with setting(needed), pytest.raises(AgreedError, match=r"/some/rules.conf is in force"):
        library.find(WORLD)


@pytest.mark.skipif(not OPEN_MPI, reason="only Open MPI has a switch beside the file")
def test_a_rule_file_that_is_not_in_force_is_none(monkeypatch):
    monkeypatch.setattr(Control, "text", "/some/rules.conf")
    library.find(WORLD).close()


@pytest.mark.skipif(WORLD.size < 3, reason="the order of two operands makes no difference")
def test_a_library_that_does_not_obey_is_found_out(monkeypatch):
    monkeypatch.setattr(Control, "value", property(lambda self: 0, lambda self, value: None))
    with pytest.raises(AgreedError, match="whatever is chosen, the MPI library runs the same algorithm"):
        library.find(WORLD)


def test_a_library_without_a_variable_is_refused_on_all_ranks(monkeypatch):
    real = Control.__init__

    def lacks(self, name):
        real(self, name if WORLD.rank else "lost")

    monkeypatch.setattr(Control, "__init__", lacks)
    with pytest.raises(AgreedError, match=r"rank 0: --library-algorithms: .* no control variable lost"):
        library.find(WORLD)


def test_segments_that_cut_nothing_are_one():
    assert distinct((64, 256, 0), 32) == [64]
    assert distinct((64, 256, 0), 128) == [64, 256]
    assert distinct((64, 256, 0), 1024) == [64, 256, 0]
    assert distinct((0, 64), 1024) == [0, 64]
    assert distinct((None,), 8) == [None]


def test_the_communicators_are_freed():
    found = library.find(WORLD)
    made = list(getattr(found, "made", {}).values())
    found.close()
    assert all(comm == MPI.COMM_NULL for comm in made)
    WORLD.Barrier()


def test_every_call_is_made_in_the_context_that_chooses(fixed):
    entered = []

    class Chosen:
        def __enter__(self):
            entered.append("in")

        def __exit__(self, *exception):
            entered.append("out")

    with Bench(WORLD, POINT, [FIXED + "ring"], library=fixed, placements=("in_place",)) as bench:
        (case,) = bench.cases
        real, case.chosen = case.call, Chosen
        case.call = lambda: (entered.append("call"), real())
        bench.check()
        bench.warm_up(Effort(samples=2, iterations=2, warmup=2))
        for _ in bench.rounds():
            pass
    assert entered.count("call") > 3
    last = "out"
    for event in entered:
        assert event != "call" or last == "in"
        last = last if event == "call" else event
