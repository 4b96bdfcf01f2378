"""The sweep of device buffers on every rank: all paths, right and wrong results, what is written."""

import csv
import json
from pathlib import Path

import guarded
import numpy as np
import pytest
import sweep_cases
from mpi4py import MPI

import hpcdist
from hpcdist.algorithms import ALLREDUCE, SHARED
from hpcdist.bench.findings import Findings
from hpcdist.bench.gpu import bench as bench_module
from hpcdist.bench.gpu.bench import ALL, ONE, DeviceBench
from hpcdist.bench.gpu.measurement import work
from hpcdist.bench.gpu.report import LEAST, Limit, Part, Record
from hpcdist.device.paths import AUTO, AWARE, PEER, STAGED
from hpcdist.errors import AgreedError
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.sweep import inputs, measure, memory, paths
from hpcdist.sweep.measure import Bench, Effort, Point
from hpcdist.sweep.record import LIBRARY
from hpcdist.sweep.run import Sweep
from hpcdist.tuning.table import Selection
from hpcdist.util import typed_json

pytestmark = [pytest.mark.mpi, pytest.mark.long]

WORLD = MPI.COMM_WORLD
DEVICE = guarded.install()
ALL_PATHS = (STAGED, AWARE, PEER)
POSSIBLE = ALL_PATHS if guarded.AWARE else (STAGED, PEER)
OF_LIBRARY = (STAGED, AWARE) if guarded.AWARE else (STAGED,)
FLOAT32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What is known of this MPI, and no path that another test has asked for."""
    monkeypatch.delenv("HPCDIST_PATH", raising=False)
    monkeypatch.setenv("HPCDIST_CUDA_AWARE", str(int(guarded.AWARE)))


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


def options(**changes):
    """The options of a sweep of a few milliseconds."""
    usual = {"algorithms": ("ring", SHARED), "format": "wide", "device": "simulated", "path": ALL_PATHS}
    return sweep_cases.options(**{**usual, **changes})


def bench(names, count=10, dtype=FLOAT32, op="sum", asked=ALL_PATHS, **more):
    """A bench on device buffers, on those of the paths that can be taken."""
    return Bench(
        WORLD, Point(count, dtype, op), names, accelerator=DEVICE, paths=paths.find(WORLD, DEVICE, asked), **more
    )


def only(names, path, placement, count=10):
    """A bench with one case."""
    made = bench(names, count)
    made.cases = [case for case in made.cases if (case.path, case.placement) == (path, placement)]
    return made, made.cases[0]


def after(case, last_rank_does):
    """Let the last rank do something after each call."""
    real = case.call

    def call():
        real()
        if WORLD.rank == WORLD.size - 1:
            last_rank_does()

    case.call = call


# --- right? ---


@pytest.mark.paired
@pytest.mark.limit(300)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_algorithm_is_right_on_every_path(dtype, op):
    for count in (1, 61):
        point = Point(count, DTYPES[dtype], op)
        names = [name for name in ("ring", "tree", SHARED, LIBRARY) if not measure.refused(name, point)]
        with bench(names, count, DTYPES[dtype], op) as made:
            made.check()
            wrong = {f"{c.algorithm} {c.path} {c.placement}": str(c.bad) for c in made.cases if c.bad}
            assert wrong == {}
            found = {(case.algorithm, case.path) for case in made.cases}
            ours = {(name, path) for name in ("ring", "tree") for path in POSSIBLE}
            theirs = {(LIBRARY, path) for path in OF_LIBRARY if LIBRARY in names}
            assert found == ours | {(SHARED, PEER)} | theirs
            assert len(made.cases) == 2 * len(found)


@pytest.mark.parametrize("placement", ["in_place", "out_of_place"])
@pytest.mark.parametrize(("name", "path"), [("ring", STAGED), ("ring", PEER), (SHARED, PEER), (LIBRARY, STAGED)])
def test_a_wrong_element_on_one_rank_is_seen_by_all(name, path, placement):
    made, case = only([name], path, placement)
    after(case, lambda: made.target[3:5].fill(-0.5))
    made.check()
    assert (case.bad.wrong, case.bad.rank, case.bad.index) == (2, WORLD.size - 1, 3)
    assert (case.bad.what, case.bad.got) == ("result", -0.5)
    assert case.bad.want == inputs.expected(WORLD.size, 10, FLOAT32, "sum")[3]


def test_an_input_that_had_to_stay_is_checked():
    made, case = only([LIBRARY], STAGED, "out_of_place")
    after(case, lambda: made.source[7:8].fill(0))
    made.check()
    assert (case.bad.wrong, case.bad.what, case.bad.index) == (1, "untouched input", 7)


@pytest.mark.parametrize("placement", ["in_place", "out_of_place"])
def test_an_operation_that_does_nothing_is_wrong(placement):
    made, case = only(["ring"], STAGED, placement)
    case.call = lambda: None
    made.check()
    if placement == "in_place" and WORLD.size == 1:
        assert case.bad is None, "with one rank, doing nothing is right"
    else:
        assert case.bad.wrong == 10 * WORLD.size


def test_bits_count_and_not_values(monkeypatch):
    zeros = np.zeros(10, FLOAT32)
    monkeypatch.setattr(inputs, "inputs", lambda *_: zeros)
    monkeypatch.setattr(inputs, "expected", lambda *_: -zeros)
    made, case = only([LIBRARY], STAGED, "in_place")
    made.check()
    assert case.bad.wrong == 10 * WORLD.size


@pytest.mark.parametrize("path", OF_LIBRARY)
@pytest.mark.parametrize("placement", ["in_place", "out_of_place"])
def test_the_library_waits_for_the_callers_own_work(path, placement):
    made, case = only([LIBRARY], path, placement, count=1000)
    buffer = made.target if case.in_place else made.source
    for number in (1, 2):
        guarded.slow(guarded.current(), seconds=0.05)
        buffer.fill(number)
        case.call()
        assert (guarded.peek(made.target) == number * WORLD.size).all(), "peek waits for nothing"


def test_a_large_buffer_is_filled_to_its_end():
    count = (1 << 18) + 7  # more than a piece
    with bench([LIBRARY], count) as made:
        made.buffers.fill(made.target, 0xA5)
        assert (guarded.peek(made.target).view(np.uint8) == 0xA5).all()


# --- paths ---


def test_a_path_that_auto_takes_is_measured_once():
    with bench(["ring"], asked=(PEER, AUTO)) as made:
        assert [(case.path, case.placement) for case in made.cases] == [
            (PEER, "out_of_place"),
            (PEER, "in_place"),
        ]
    with bench(["ring"], asked=(AUTO, STAGED)) as made:
        assert [case.path for case in made.cases] == [PEER, PEER, STAGED, STAGED]


def test_what_cannot_be_taken_is_left_out_with_the_reason():
    found = paths.find(WORLD, DEVICE, ALL_PATHS)
    assert tuple(found.taken) == POSSIBLE
    if not guarded.AWARE:
        assert "does not take device memory (HPCDIST_CUDA_AWARE=0)" in found.impossible[AWARE]


@pytest.mark.skipif(guarded.AWARE, reason="here, MPI takes device memory")
def test_a_sweep_of_nothing_but_an_impossible_path_is_refused_on_all_ranks():
    with pytest.raises(AgreedError, match=r"no path that was asked for can be taken\. aware: .*HPCDIST_CUDA_AWARE=0"):
        Sweep(WORLD, options(path=(AWARE,)), DEVICE)


def test_what_does_not_fit_on_one_rank_is_an_error_on_all(monkeypatch):
    def no_room(count, dtype):
        raise MemoryError(f"no room for {count} elements")

    if WORLD.rank == WORLD.size - 1:
        monkeypatch.setattr(type(DEVICE), "empty", staticmethod(no_room))
    with pytest.raises(AgreedError, match=f"rank {WORLD.size - 1}: MemoryError: no room for 10 elements"):
        Bench(WORLD, Point(10, FLOAT32, "sum"), ["ring"], accelerator=DEVICE)


@pytest.mark.parametrize(
    ("asked", "buffers", "inboxes"),
    [((PEER,), 5, 0), ((STAGED, PEER), 5, 2), ((AUTO,), 5, 0)],
)
def test_host_memory_is_needed_for_copies_and_staging(asked, buffers, inboxes):
    changes = {"algorithms": ("recursive_doubling", SHARED), "max_bytes": 1 << 20, "path": asked}
    on_host = memory.needed(0, (0, 0), options(**changes, device="cpu"))
    assert memory.needed(0, (0, 0), options(**changes)) == (buffers << 20, inboxes * on_host[1])


# --- what is written ---


def test_a_sweep_writes_memory_and_path_of_every_row(folder, capsys):
    names = {"json": folder / "s.json", "csv": folder / "s.csv", "tune": folder / "t.json", "figure": folder / "f"}
    assert Sweep(WORLD, options(explain=True, **names), DEVICE).run() == 0
    text = capsys.readouterr().out
    WORLD.Barrier()
    document = json.loads(names["json"].read_text())
    rows = document["results"]
    cases = {(row["algorithm"], row["path"]) for row in rows}
    ours = {("ring", path) for path in POSSIBLE}
    assert cases == ours | {(SHARED, PEER)} | {(LIBRARY, path) for path in OF_LIBRARY}
    assert len(rows) == len(cases) * 2 * 3
    assert {row["memory"] for row in rows} == {"simulated"}
    assert all(row["wrong"] == 0 and row["predicted_us"] is None for row in rows)
    assert document["machine"]["devices"]["names"] == {"simulated device": 1}
    with names["csv"].open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [row["path"] for row in rows]
    table = Selection.load(names["tune"])
    assert {(rule.memory, rule.path) for rule in table.rules} == {("simulated", path) for path in POSSIBLE}
    nodes = rows[0]["nodes"]
    assert table.choose(WORLD.size, nodes, "float32", 8) is None, "host buffers are none of its business"
    assert table.choose(WORLD.size, nodes, "float32", 8, "simulated", STAGED).algorithm == "ring"
    if WORLD.rank == 0:
        assert "# memory: simulated, 1 x simulated device" in text
        assert "in simulated memory, path staged" in text, "what auto takes, and why"
        assert ("note: path aware is left out: " in text) == (not guarded.AWARE)


def test_plans_on_device_buffers_choose_by_the_table_and_those_on_host_buffers_do_not(folder):
    asked = options(algorithms=("direct",), path=(STAGED,), tune=folder / "t.json", max_bytes=8)
    assert Sweep(WORLD, asked, DEVICE).run() == 0
    WORLD.Barrier()
    on_device = hpcdist.plan(WORLD, DEVICE.empty(2, "f4"), path=STAGED, selection=folder / "t.json")
    on_host = hpcdist.plan(WORLD, np.zeros(2, "f4"), selection=folder / "t.json")
    assert (on_device.path, on_device.algorithm) == (STAGED, "direct")
    assert "t.json says so" in on_device.why
    assert "t.json has no rule" in on_host.why
    for plan in (on_device, on_host):
        plan.close()


def test_types_that_mpi_does_not_know_are_measured_without_the_library(folder):
    asked = options(dtype=("bfloat16",), path=(STAGED, PEER), json=folder / "s.json", max_bytes=8)
    assert Sweep(WORLD, asked, DEVICE).run() == 0
    WORLD.Barrier()
    rows = json.loads((folder / "s.json").read_text())["results"]
    assert {row["algorithm"] for row in rows} == {"ring", SHARED}
    assert {row["wrong"] for row in rows} == {0}


def test_a_wrong_element_fails_the_sweep_and_its_path_is_named(monkeypatch, capsys):
    real = inputs.expected
    monkeypatch.setattr(inputs, "expected", lambda *arguments: real(*arguments) + 1)
    assert Sweep(WORLD, options(max_bytes=8, path=(PEER,)), DEVICE).run() == 1
    if WORLD.rank == 0:
        shown = capsys.readouterr()
        assert "FAILED" in shown.out
        assert "ring, 8 B float32 sum, in_place, path peer:" in shown.err


def test_without_the_path_peer_shared_is_left_out_with_a_note(capsys):
    assert Sweep(WORLD, options(path=(STAGED,), max_bytes=8), DEVICE).run() == 0
    if WORLD.rank == 0:
        assert "# note: shared is left out: it knows the path peer only" in capsys.readouterr().out


def test_all_names_are_measured_on_a_device():
    with bench([*ALLREDUCE, SHARED], count=64, asked=(STAGED,)) as made:
        made.warm_up(Effort(samples=2, iterations=1))
        assert {case.algorithm for case in made.cases} == set(ALLREDUCE)
        for _ in made.rounds():
            pass
        assert all((made.seconds(case) > 0).all() for case in made.cases)


# --- the report on GPUs ---

OURS = ("ring", SHARED)


def measured(out=None):
    """What the ranks of the report find of two sizes."""
    found = Findings(WORLD, out, Part(), DEVICE)
    work(found, (4096, 65536), OURS, ALL_PATHS, LEAST, 0.001)
    return found.part


def limits(part):
    """The sizes that were measured."""
    return [row.nbytes for row in part.rows if isinstance(row, Limit)]


def test_the_floor_is_the_faster_way_to_copy_all_buffers_once():
    found = paths.find(WORLD, DEVICE, ALL_PATHS)
    with DeviceBench(WORLD, DEVICE, 4096, OURS, found, sharers=WORLD.size) as made:
        made.check()
        made.add_copies(DEVICE)
        made.measure(LEAST, 0.001)
        limit, *records = made.results()
        one, every = (made.seconds(case) / made.row for case in made.cases[:2])
        assert [case.algorithm for case in made.cases[:2]] == [ONE, ALL]
        assert limit.floor_us == pytest.approx(1e6 * np.median(np.minimum(WORLD.size * one, every)))
        assert {(record.algorithm, record.path) for record in records} == {
            *(("ring", path) for path in POSSIBLE),
            (SHARED, PEER),
            *((LIBRARY, path) for path in OF_LIBRARY),
        }
        for record in records:
            assert (record.share is None) == (WORLD.size == 1)
            assert (record.to_staged is None) == (record.path == STAGED or record.algorithm == SHARED)
            assert (record.to_library is None) == ((record.algorithm, record.path) == (LIBRARY, STAGED))
            assert (record.us.count, record.wrong) == (LEAST, 0)


def test_copies_move_the_whole_buffer():
    with DeviceBench(WORLD, DEVICE, 4096, OURS, paths.find(WORLD, DEVICE, (STAGED,))) as made:
        made.add_copies(DEVICE)
        made.buffers.fill(made.source, 7)
        made.buffers.fill(made.target, 8)
        alone, together = made.cases[:2]
        alone.call()
        assert (guarded.peek(made.target).view(np.uint8) == (7 if WORLD.rank == 0 else 8)).all()
        together.call()
        assert (guarded.peek(made.target).view(np.uint8) == 7).all()


def test_large_buffers_are_copied_in_turn_and_small_ones_once(monkeypatch):
    monkeypatch.setattr(bench_module, "LARGE", 65536)
    monkeypatch.setattr(bench_module, "TURN", 4 * 2 * 65536)
    monkeypatch.setattr(bench_module, "ROW", 3)
    copied = []
    stream = type(DEVICE.stream())
    real = stream.copy
    monkeypatch.setattr(
        stream, "copy", lambda self, target, source: copied.append(target.address) or real(self, target, source)
    )
    for nbytes, row, turn in ((4096, 1, 1), (65536, 3, 4)):
        with DeviceBench(WORLD, DEVICE, nbytes, OURS, paths.find(WORLD, DEVICE, (STAGED,))) as made:
            made.add_copies(DEVICE)
            copied.clear()
            for _ in range(turn):
                made.cases[1].call()
            assert (made.row, len(copied), len(set(copied))) == (row, row * turn, turn)
            assert copied[turn:] == copied[:-turn] or turn == 1


def test_what_was_found_is_written_and_says_what_was_left_out(folder):
    part = measured(folder / "a.json")
    WORLD.Barrier()
    assert typed_json.decode((folder / "a.json").read_bytes(), Part, "a.json") == part
    assert limits(part) == [4096, 65536]
    assert not part.problems()
    assert part.machine["devices"]["ranks_per_device"] == [WORLD.size]
    missing = "\n".join(part.missing)
    assert "NCCL left out: " in missing
    assert ("path aware left out: " in missing) == (not guarded.AWARE)


def test_a_size_without_room_is_missing_and_the_others_are_measured(monkeypatch):
    real = type(DEVICE).empty

    def no_room(self, count, dtype):
        if count * np.dtype(dtype).itemsize == 65536:
            raise MemoryError("no room")
        return real(self, count, dtype)

    monkeypatch.setattr(type(DEVICE), "empty", no_room)
    part = measured()
    assert limits(part) == [4096]
    assert any("64 KiB left out: " in text and "no room" in text for text in part.missing)


def test_a_wrong_element_is_found_in_every_row_and_said(monkeypatch, capsys):
    real = inputs.expected
    monkeypatch.setattr(inputs, "expected", lambda *arguments: real(*arguments) + 1)
    part = measured()
    assert len(part.problems()) == sum(isinstance(row, Record) for row in part.rows) > 0
    if WORLD.rank == 0:
        assert "ring, 4 KiB float32 sum, path peer: " in capsys.readouterr().err
