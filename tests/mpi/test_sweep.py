"""The sweep on every rank: it finds all algorithms right, finds what is wrong, and keeps what it measured."""

import csv
import json
import os
import signal
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from mpi4py import MPI
from sweep_cases import options

from hpcdist.algorithms import ALLREDUCE
from hpcdist.errors import AgreedError
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.mpi.cvars import Control
from hpcdist.sweep import inputs, measure, model, record
from hpcdist.sweep.command import sweep
from hpcdist.sweep.interrupt import Interrupt
from hpcdist.sweep.measure import Bench, Effort, Point
from hpcdist.sweep.record import LIBRARY
from hpcdist.sweep.run import Sweep
from hpcdist.tuning.table import Selection

pytestmark = pytest.mark.mpi

WORLD = MPI.COMM_WORLD


@pytest.fixture
def folder(tmp_path):
    """One folder for all ranks."""
    return Path(WORLD.bcast(str(tmp_path)))


@pytest.mark.paired(times=2)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_algorithm_is_right_in_place_and_out_of_place(dtype, op):
    for count in (1, 2, 61):
        point = Point(count, np.dtype(DTYPES[dtype]), op)
        names = [name for name in (*ALLREDUCE, LIBRARY) if not measure.refused(name, point)]
        with Bench(WORLD, point, names) as bench:
            bench.check()
            assert {f"{c.algorithm} {c.placement}": str(c.bad) for c in bench.cases if c.bad} == {}
            assert len(bench.cases) == 2 * len(names)


def library_bench(placement, count=10):
    """A bench with the one case of the MPI library's own all-reduce in this placement."""
    bench = Bench(WORLD, Point(count, np.dtype("float32"), "sum"), [LIBRARY])
    bench.cases = [case for case in bench.cases if case.placement == placement]
    return bench, bench.cases[0]


def after(bench, case, last_rank_does):
    """Let the last rank do something after each call."""
    real = case.call

    def call():
        real()
        if WORLD.rank == WORLD.size - 1:
            last_rank_does(bench)

    case.call = call


@pytest.mark.parametrize("placement", ["in_place", "out_of_place"])
def test_a_wrong_element_on_one_rank_is_seen_by_all(placement):
    bench, case = library_bench(placement)
    after(bench, case, lambda bench: bench.target.__setitem__(slice(3, 5), -0.5))
    bench.check()
    assert (case.bad.wrong, case.bad.rank, case.bad.index) == (2, WORLD.size - 1, 3)
    assert case.bad.what == "result"
    assert case.bad.got == -0.5
    assert case.bad.want == inputs.expected(WORLD.size, 10, np.dtype("float32"), "sum")[3]


def test_an_input_that_had_to_stay_is_checked():
    bench, case = library_bench("out_of_place")
    after(bench, case, lambda bench: bench.source.__setitem__(7, 0))
    bench.check()
    assert (case.bad.wrong, case.bad.what, case.bad.index) == (1, "untouched input", 7)


@pytest.mark.parametrize("placement", ["in_place", "out_of_place"])
def test_an_operation_that_does_nothing_is_wrong(placement):
    bench, case = library_bench(placement)
    case.call = lambda: None
    bench.check()
    if placement == "in_place" and WORLD.size == 1:
        assert case.bad is None, "with one rank, doing nothing is right"
    else:
        assert case.bad.wrong == 10 * WORLD.size


@pytest.mark.every_size
def test_each_rank_counts():
    bench, case = library_bench("in_place")
    real = case.call
    case.call = lambda: (real(), bench.target.fill(np.nan))
    bench.check()
    assert case.bad.wrong == 10 * WORLD.size
    assert case.bad.rank == 0


@pytest.mark.every_size
def test_every_case_gets_its_samples_the_same_on_all_ranks():
    with Bench(WORLD, Point(4, np.dtype("float32"), "sum"), ["ring", LIBRARY]) as bench:
        bench.warm_up(Effort(samples=5, iterations=2))
        assert sum(1 for _ in bench.rounds()) == 5
        for case in bench.cases:
            seconds = bench.seconds(case)
            assert len(seconds) == case.samples
            assert (seconds > 0).all()
            assert WORLD.allgather(seconds.tolist()) == [seconds.tolist()] * WORLD.size


def timed(bench, seconds):
    """Give cases the times of samples; of each only the last rank's counts."""
    for case in bench.cases:
        each = seconds.get((case.algorithm, case.placement), seconds.get(case.algorithm))
        case.times = [each if WORLD.rank == WORLD.size - 1 else each / 2] * 3


def test_who_is_close_to_the_fastest_in_a_placement_leads_in_all():
    with Bench(WORLD, Point(4, np.dtype("float32"), "sum"), ["ring", "tree", "circulant", LIBRARY]) as bench:
        timed(
            bench,
            {"ring": 1.0, ("tree", "in_place"): 1.3, ("tree", "out_of_place"): 2.0, "circulant": 1.31, LIBRARY: 0.1},
        )
        assert [case.kind for case in bench.leaders(1.3)] == [
            c.kind for c in bench.cases if c.algorithm in ("ring", "tree")
        ]
        assert {case.placement for case in bench.leaders(1.3) if case.algorithm == "tree"} == {
            "in_place",
            "out_of_place",
        }


def test_a_wrong_algorithm_does_not_lead():
    with Bench(WORLD, Point(4, np.dtype("float32"), "sum"), ["ring", "tree"]) as bench:
        timed(bench, {"ring": 1.0, "tree": 2.0})
        for case in bench.cases:
            if case.algorithm == "ring":
                case.call = lambda: None
        bench.source.fill(0)
        bench.check()
        wrong = {case.algorithm for case in bench.cases if case.bad}
        assert {case.algorithm for case in bench.leaders(1.0)} == {"ring", "tree"} - wrong
        assert wrong == ({"ring"} if WORLD.size > 1 else wrong)


def test_some_cases_are_timed_more_often():
    with Bench(WORLD, Point(4, np.dtype("float32"), "sum"), ["ring", LIBRARY]) as bench:
        bench.warm_up(Effort(samples=5, iterations=2))
        assert sum(1 for _ in bench.rounds()) == 5
        ring = [case for case in bench.cases if case.algorithm == "ring"]
        assert sum(1 for _ in bench.rounds(ring, 3)) == 15
        assert {case.algorithm: len(case.times) for case in bench.cases} == {"ring": 20, LIBRARY: 5}


@pytest.mark.parametrize("ranks_per_node", [1, 2, 99])
def test_the_model_is_the_same_on_all_ranks(ranks_per_node):
    topology = tuple(rank // ranks_per_node for rank in range(WORLD.size))
    fitted = model.fit(WORLD, topology)
    assert WORLD.allgather(fitted) == [fitted] * WORLD.size
    assert min(fitted.alpha, fitted.beta, fitted.gamma) > 0
    nodes = len(set(topology))
    assert (fitted.pair_beta is not None) == (nodes > 2)
    assert (fitted.lone_alpha is not None) == (nodes > 1)
    assert nodes < 2 or fitted.lone_alpha <= fitted.alpha
    assert (fitted.gap is not None) == (nodes > 2)
    assert nodes < 3 or 0 <= fitted.gap <= fitted.alpha
    several_nodes_of_several_ranks = 1 < len(set(topology)) < WORLD.size
    assert (fitted.node_alpha is not None) == several_nodes_of_several_ranks


def test_bits_count_and_not_values(monkeypatch):
    zeros = np.zeros(10, np.float32)
    monkeypatch.setattr(inputs, "inputs", lambda *_: zeros)
    monkeypatch.setattr(inputs, "expected", lambda *_: -zeros)
    bench, case = library_bench("in_place")
    bench.check()
    assert case.bad.wrong == 10 * WORLD.size


@pytest.mark.skipif(find_spec("cupy") is not None, reason="there is a CuPy here, and maybe a GPU")
def test_without_a_gpu_a_sweep_of_device_buffers_is_refused():
    result = CliRunner().invoke(sweep, ["--device", "cuda"])
    assert result.exit_code == 1
    assert ("Error: rank" in result.output and "CuPy" in result.output) == (WORLD.rank == 0)


def test_rows_of_host_buffers_say_so(folder):
    Sweep(WORLD, options(json=folder / "s.json", tune=folder / "t.json")).run()
    WORLD.Barrier()
    rows = json.loads((folder / "s.json").read_text())["results"]
    assert {(row["memory"], row["path"]) for row in rows} == {("host", "host")}
    assert {(rule.memory, rule.path) for rule in Selection.load(folder / "t.json").rules} == {("host", "host")}


def test_a_sweep_writes_what_it_measured(folder, capsys):
    names = {
        "json": folder / "s.json",
        "csv": folder / "s.csv",
        "tune": folder / "t.json",
        "figure": folder / "f",
    }
    assert Sweep(WORLD, options(explain=True, **names)).run() == 0
    text = capsys.readouterr().out
    WORLD.Barrier()
    rows = json.loads(names["json"].read_text())["results"]
    keys = {(row["algorithm"], row["nbytes"], row["placement"]) for row in rows}
    assert len(keys) == len(rows) == 3 * 3 * 2
    assert all(row["wrong"] == 0 and row["ranks"] == WORLD.size for row in rows)
    assert all((row["busbw"] > 0) == (WORLD.size > 1) for row in rows)
    with names["csv"].open() as file:
        assert [row["algorithm"] for row in csv.DictReader(file)] == [row["algorithm"] for row in rows]
    assert (
        Selection.load(names["tune"]).choose(WORLD.size, rows[0]["nodes"], "float32", 8).algorithm
        in options().algorithms
    )
    assert (folder / "f.svg").exists() == (WORLD.size > 1)
    assert ("Out of bounds values : 0 OK" in text) == (WORLD.rank == 0)
    assert ("auto, 8 B float32 sum" in text) == (WORLD.rank == 0)


def test_the_bytes_on_the_wire_are_those_of_the_schedule(folder):
    Sweep(WORLD, options(algorithms=("ring",), json=folder / "s.json")).run()
    WORLD.Barrier()
    for row in json.loads((folder / "s.json").read_text())["results"]:
        ours = row["algorithm"] == "ring"
        least = 2 * (WORLD.size - 1) / WORLD.size * row["nbytes"]
        assert row["sent_bytes"] == (pytest.approx(least) if ours else None)
        assert (row["predicted_us"] is not None) == ours


def test_segments_and_the_librarys_algorithms_are_cases_of_one_sweep(folder, capsys):
    files = {"json": folder / "s.json", "tune": folder / "t.json"}
    asked = options(algorithms=("ring",), segment_bytes=(16, 64), library_algorithms=True, **files)
    assert Sweep(WORLD, asked).run() == 0
    WORLD.Barrier()
    rows = json.loads(files["json"].read_text())["results"]
    ours = {(row["nbytes"], row["segment_nbytes"]) for row in rows if row["algorithm"] == "ring"}
    assert ours == {(8, 16), (32, 16), (32, 64), (128, 16), (128, 64)}, "one for all segments that cut nothing"
    assert {row["algorithm"] for row in rows} > {"ring", LIBRARY, "library:ring", "library:recursive_doubling"}
    assert all(row["wrong"] == 0 for row in rows)
    assert {bracket.algorithm for rule in Selection.load(files["tune"]).rules for bracket in rule.choose} == {"ring"}
    if WORLD.size > 1 and WORLD.rank == 0:
        assert "# ring/16B " in capsys.readouterr().out, "the model's table tells segments apart"


def test_the_librarys_variables_are_as_before_after_a_sweep():
    name = "coll_tuned_priority" if "Open MPI" in MPI.Get_library_version() else "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM"
    before = Control(name).value
    swept = Sweep(WORLD, options(algorithms=(), library=False, library_algorithms=True, max_bytes=8))
    assert swept.run() == 0
    assert Control(name).value == before
    assert not getattr(swept.library, "made", ()), "the communicators made for it are freed"


def test_a_file_that_cannot_be_written_ends_the_sweep_on_all_ranks_before_it_begins(folder):
    if WORLD.rank == 0:
        (folder / "taken").write_text("a file, no folder")
    WORLD.Barrier()
    with pytest.raises(AgreedError, match=r"rank 0: .*taken/s.json cannot be written"):
        Sweep(WORLD, options(json=folder / "taken" / "s.json")).run()


def test_what_no_memory_holds_is_refused_on_all_ranks_before_it_begins():
    with pytest.raises(AgreedError, match=rf"--max-bytes 100 TiB takes at least .* TiB .* {WORLD.size} rank"):
        Sweep(WORLD, options(max_bytes=100 << 40)).run()


def test_half_types_are_measured_without_the_library(capsys, folder):
    Sweep(WORLD, options(dtype=("bfloat16",), json=folder / "s.json")).run()
    WORLD.Barrier()
    rows = json.loads((folder / "s.json").read_text())["results"]
    assert {row["algorithm"] for row in rows} == set(options().algorithms)
    if WORLD.rank == 0:
        assert "MPI_Allreduce is left out" in capsys.readouterr().out


def test_a_wrong_element_fails_the_sweep(monkeypatch, capsys):
    real = inputs.expected
    monkeypatch.setattr(inputs, "expected", lambda *args: real(*args) + 1)
    assert Sweep(WORLD, options(max_bytes=8)).run() == 1
    if WORLD.rank == 0:
        shown = capsys.readouterr()
        assert "FAILED" in shown.out
        assert "ring, 8 B float32 sum, in_place:" in shown.err
        assert f"{2 * WORLD.size} wrong elements, the first on rank 0: result[0] is" in shown.err


def test_unchecked_is_not_wrong(folder):
    assert Sweep(WORLD, options(check=False, json=folder / "s.json")).run() == 0
    WORLD.Barrier()
    assert {row["wrong"] for row in json.loads((folder / "s.json").read_text())["results"]} == {None}


def test_a_signal_to_one_rank_stops_all_and_keeps_what_was_measured(folder, monkeypatch):
    real = Sweep._save

    def save_and_be_interrupted(sweep):
        real(sweep)
        if WORLD.rank == WORLD.size - 1 and not sweep.report.interrupted:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Sweep, "_save", save_and_be_interrupted)
    assert Sweep(WORLD, options(json=folder / "s.json")).run() == 130
    WORLD.Barrier()
    document = json.loads((folder / "s.json").read_text())
    assert document["interrupted"] is True
    assert {row["nbytes"] for row in document["results"]} == {8}


def test_a_signal_is_in_the_file_before_the_ranks_have_agreed(folder, monkeypatch):
    real, said = Sweep._point, []

    def be_interrupted(sweep, *arguments):
        if WORLD.rank == 0 and not said and sweep.report.results:
            os.kill(os.getpid(), signal.SIGTERM)
            said.append(json.loads((folder / "s.json").read_text())["interrupted"])
        return real(sweep, *arguments)

    monkeypatch.setattr(Sweep, "_point", be_interrupted)
    assert Sweep(WORLD, options(json=folder / "s.json")).run() == 128 + signal.SIGTERM
    assert said == ([True] if WORLD.rank == 0 else [])


def test_a_signal_while_the_file_is_written_is_in_it(folder, monkeypatch):
    signals = iter([signal.SIGTERM])

    def be_interrupted(path, report):
        text = json.dumps(report.as_json())
        for number in signals:
            os.kill(os.getpid(), number)
        path.write_text(text)

    sweep = Sweep(WORLD, options(json=folder / f"{WORLD.rank}.json"))
    monkeypatch.setattr(record, "write_json", be_interrupted)
    with Interrupt(WORLD, sweep._mark_interrupted):
        sweep._write_json(sweep.options.json)
    assert json.loads(sweep.options.json.read_text())["interrupted"] is True


def test_the_second_signal_acts_as_it_always_did():
    with Interrupt(WORLD) as interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert interrupt.exit_code == 130
