"""Ours beside other libraries: ratios, rounds, files, tables, figures, and what is missing."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from mpi4py import MPI
from sweep_records import record as swept

from hpcdist.bench import (
    addresses,
    algorithms,
    commits,
    figure,
    halves,
    network,
    node,
    peers,
    processes,
    start,
    table,
    tuning,
    values,
)
from hpcdist.bench.alone import harness
from hpcdist.bench.beside import KIND
from hpcdist.bench.cases import Size
from hpcdist.bench.compare import groups, slower
from hpcdist.bench.draft import Draft
from hpcdist.bench.peers import GLOO, INTEL, MPICH, MPIS, NAMES, NEW, OLD, OPEN_MPI, Peer
from hpcdist.bench.ratios import Side, best, link_bytes, name_of, paired, ratio, share
from hpcdist.bench.record import AGAIN, HERE, WRONG, Judgement, Part, Report, Row, part_of
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.saved import read
from hpcdist.bench.task import ADDRESSED, AUTO, COPY, KINDS, LIBRARY, RAW, REGISTERED, Link, Task, addressed
from hpcdist.bench.task import NAMES as ALGORITHMS
from hpcdist.cli.main import main
from hpcdist.cluster import plan
from hpcdist.tuning.table import Bracket, Rule, Selection
from hpcdist.util.sampling import Spread, order

SIZES = (8, 65536, 1 << 24)


def row(peer=OPEN_MPI, nbytes=SIZES[0], round=0, part="node", place=HERE, ranks=2, **fields):
    us = {LIBRARY: 10.0, AUTO: 9.0, REGISTERED: 5.0, COPY: 2.0}
    made = {"samples": 3, "us": us, "ratios": {}, "wrong": dict.fromkeys(us, 0), "chosen": "ring/4MiB"}
    return Row(part, place, ranks, round, peer, nbytes, **{**made, **fields})


def timed(peer, round, **us):
    """A row with so many microseconds of each case."""
    return row(peer, round=round, us={name.replace("_", " "): value for name, value in us.items()})


def of(rows):
    """A report of these rows."""
    found = Report({})
    for each in rows:
        found.parts.setdefault(part_of(each.part, each.place, each.ranks), Part()).rows.append(each)
    return found


# --- ratios ---


def test_ratios_of_a_job_are_paired_by_sample_before_the_median_is_taken():
    times = {AUTO: [1.0, 2.0, 9.0], LIBRARY: [2.0, 9.0, 1.0]}
    assert paired(times, [(AUTO, LIBRARY)]) == {"auto / library": 0.5}  # the ratio of the medians is 1


def test_pairs_that_were_not_both_measured_are_left_out():
    assert paired({LIBRARY: [1.0]}, node.PAIRS) == {}


def test_ratios_across_libraries_are_paired_by_round_before_the_median_is_taken():
    ours, theirs = [1.0, 20.0, 300.0], [2.0, 10.0, 100.0]
    rows = [timed(OPEN_MPI, i, auto=us) for i, us in enumerate(ours)]
    rows += [timed(MPICH, i, library=us) for i, us in enumerate(theirs)]
    found = ratio(rows, Side(OPEN_MPI, AUTO), Side(MPICH, LIBRARY))
    assert found == Spread.of([0.5, 2.0, 3.0])
    assert found.median == 2.0


def test_within_a_library_the_ratio_is_that_of_its_jobs():
    rows = [row(round=i, ratios={name_of(AUTO, LIBRARY): value}) for i, value in enumerate((0.5, 0.7, 0.6))]
    assert ratio(rows, Side(OPEN_MPI, AUTO), Side(OPEN_MPI, LIBRARY)).median == 0.6


def test_rounds_that_only_one_took_part_in_are_left_out():
    rows = [timed(OPEN_MPI, 0, auto=8.0), timed(OPEN_MPI, 1, auto=3.0), timed(MPICH, 1, library=2.0)]
    assert ratio(rows, Side(OPEN_MPI, AUTO), Side(MPICH, LIBRARY)).median == 1.5
    assert ratio(rows[:1], Side(OPEN_MPI, AUTO), Side(MPICH, LIBRARY)) is None


def test_a_link_carries_2_p_minus_1_over_p_of_the_buffer():
    assert link_bytes(2, 1000) == 1000
    assert link_bytes(8, 1000) == 1750
    assert share(8, 1000, 1750 * 8 / 1e6, 1e6) == pytest.approx(1)
    assert share(8, 1000, 2 * 1750 * 8 / 1e6, 1e6) == pytest.approx(0.5)


def test_the_buckets_are_as_deep_as_tc_is_told():
    burst = plan.SHAPE[plan.SHAPE.index("burst") + 1]
    assert burst == f"{Link(10**9).bucket // 1024}kb"


def test_the_best_library_is_chosen_by_all_rounds_together():
    rows = [timed(OPEN_MPI, i, library=us) for i, us in enumerate((1.0, 9.0, 9.0))]
    rows += [timed(MPICH, i, library=us) for i, us in enumerate((5.0, 5.0, 5.0))]
    assert best(rows, LIBRARY) == Side(MPICH, LIBRARY)
    assert best(rows, AUTO) is None


def test_a_library_with_a_lucky_round_is_not_the_best():
    rows = [timed(OPEN_MPI, i, auto=5.0, library=10.0) for i in range(11)]
    rows += [timed(MPICH, i, auto=4.0, library=1.0) for i in range(5)]
    (point,) = next(groups(rows, "node")).points
    assert (point.home(AUTO), point.rival) == (Side(OPEN_MPI, AUTO), Side(OPEN_MPI, LIBRARY))
    assert point.beside_best(AUTO) == Spread(0.5, 0.5, 0.5, 11)
    assert best([*rows, timed(MPICH, 5, library=1.0)], LIBRARY) == Side(MPICH, LIBRARY)  # in half of the rounds


def test_results_that_are_wrong_do_not_count():
    bad = {LIBRARY: 7}
    rows = [row(MPICH, round=i, us={LIBRARY: us}, wrong=bad if i else {}) for i, us in enumerate((8.0, 1.0, 1.0))]
    rows += [timed(OPEN_MPI, i, auto=6.0, library=9.0) for i in range(3)]
    assert best(rows, LIBRARY) == Side(OPEN_MPI, LIBRARY)
    assert ratio(rows, Side(OPEN_MPI, AUTO), Side(MPICH, LIBRARY)) == Spread.of([0.75])
    (point,) = next(groups(rows, "node")).points
    assert point.us(Side(MPICH, LIBRARY)) is WRONG
    assert point.beside_best(AUTO).median == pytest.approx(6 / 9)


def test_ours_stands_where_it_is_best_beside_the_best_library():
    rows = [timed(OPEN_MPI, 0, auto=6.0, library=4.0), timed(MPICH, 0, auto=3.0, library=5.0)]
    (point,) = next(groups(rows, "node")).points
    assert (point.home(AUTO), point.rival) == (Side(MPICH, AUTO), Side(OPEN_MPI, LIBRARY))
    assert point.beside_best(AUTO).median == 0.75


@pytest.mark.parametrize(("count", "rank"), [(4, 0), (5, 1), (7, 1), (8, 2), (11, 3), (30, 11)])
def test_bounds_are_order_statistics_that_the_median_is_beyond_in_5_percent_at_most(count, rank):
    found = Spread.bounded([float(value) for value in range(count, 0, -1)])
    assert (found.low, found.high) == ((rank, count + 1 - rank) if rank else (0, np.inf))
    assert (found.median, found.count) == ((count + 1) / 2, count)


def at(peer, round, nbytes=4096, **us):
    """A row of addresses with so many microseconds of ours and of the library, in place at offsets 0 and 16."""
    named = zip((addressed(case, name) for case in (AUTO, LIBRARY) for name in ("0", "16")), us.values(), strict=True)
    return row(peer, nbytes, round, "addresses", us=dict(named), wrong={})


def test_ours_stands_beside_the_best_library_at_the_same_address():
    rows = [at(OPEN_MPI, i, auto=8.0, auto_16=9.0, library=10.0, library_16=6.0) for i in range(5)]
    rows += [at(MPICH, i, auto=9.0, auto_16=9.0, library=8.0, library_16=9.0) for i in range(5)]
    (point,) = next(groups(rows, "addresses")).points
    assert point.at_address("0") == Spread(1.125, 1.125, 1.125, 5)  # on MPICH, though Open MPI would suit ours better
    assert point.at_address("16") == Spread(1.5, 1.5, 1.5, 5)
    assert point.worst_over_best([addressed(AUTO, "0"), addressed(AUTO, "16")]).median == pytest.approx(1.125)
    assert point.at_address("64") is None
    rows[0].wrong[addressed(AUTO, "16")] = 1
    assert point.at_address("16") is WRONG


@pytest.mark.parametrize(("nbytes", "missed"), [(1024, False), (4096, True)])
def test_addresses_are_missed_by_the_upper_bound(nbytes, missed):
    rows = [at(MPICH, i, nbytes, a=10.0, b=12.0, c=10.0 if i else 9.0, d=12.0) for i in range(5)]
    line, *_ = lines_with(f"| {nbytes // 1024} KiB |", table.text(of(rows)))
    told = "1.00 (1.00-1.11, n=5)"
    assert line.split(" | ")[1:3] == [f"**{told}**" if missed else told, "1.00 (1.00-1.00, n=5)"]
    assert line.endswith("| **1.20 (1.20-1.20, n=5)** | 5 |")


# --- two commits ---


def two(us, part=commits.PART, rounds=5):
    """Rows of rounds in which the old commit takes 10 us."""
    return [row(peer, 8, i, part, us={AUTO: each}) for i in range(rounds) for peer, each in ((OLD, 10.0), (NEW, us))]


@pytest.mark.parametrize(
    ("rows", "behind"),
    [
        (two(10.4), False),
        (two(10.6), True),
        (two(10.6, rounds=4), False),
        ([*two(10.6), *two(9.0, AGAIN)], False),
        ([*two(10.6), *two(10.7, AGAIN)], True),
    ],
)
def test_a_commit_is_slower_by_the_lower_bound_and_what_is_measured_once_more_counts(rows, behind):
    assert slower(of(rows)) == behind


def test_both_measurements_of_a_commit_are_told():
    text = table.text(of([*two(10.6), *two(9.0, AGAIN)]))
    assert "| 8 B | **1.06 (1.06-1.06, n=5)** | 0.90 (0.90-0.90, n=5) | ring/4MiB | ring/4MiB | 5 |" in text
    assert AGAIN not in [group.part for group in groups(two(10.6), commits.PART)]


def test_sizes_at_which_a_commit_is_slower_are_measured_once_more(tmp_path, monkeypatch):
    class Slower(Nowhere):
        """The new one takes twice as long as the old one at 8 B."""

        def ranks(self, peer, count, program):
            processes = super().ranks(peer, count, program)
            out = Path(json.loads(Path(program[-1]).read_text())["out"])
            found = json.loads(out.read_text())
            found["machine"] = {}
            for each in found["rows"]:
                each["times"][AUTO] = [2.0 if peer.name == NEW and each["nbytes"] == 8 else 1.0]
            out.write_text(json.dumps(found))
            return processes

    monkeypatch.setattr(commits, "Here", Slower)
    monkeypatch.setattr(commits, "commits", lambda old, folder: [Peer(OLD, folder, ""), Peer(NEW, folder, "", folder)])
    done = called(
        tmp_path, "commits", "--old", "HEAD", "--sizes", "8,64", "--ranks", "2", "--hosts", "0", "--rounds", "5"
    )
    assert done.exit_code == 1, done.output
    rows = read(tmp_path / "bench.json", Part).rows
    assert {row.nbytes for row in rows if row.part == commits.PART} == {8, 64}
    assert {row.nbytes for row in rows if row.part == AGAIN} == {8}


# --- rounds ---


class Nowhere:
    """A place whose jobs write what they were told; `failing` ones end with an error."""

    name = HERE

    def __init__(self, failing=(), missing=()):
        self.failing, self.missing, self.started = failing, list(missing), []

    def ranks(self, peer, count, program):
        self.started.append(peer.name)
        task = json.loads(Path(program[-1]).read_text())
        found = [
            {
                "nbytes": nbytes,
                "samples": 1,
                "times": {name: [float(nbytes)] for name in task["cases"]},
                "wrong": {},
                "cores": {},
                "refill": dict.fromkeys(task["cases"], 123456.7),
                "predicted": {},
                "chosen": "",
                "seconds": float(nbytes),
            }
            for nbytes in task["sizes"]
        ]
        found = {"machine": {"cpu": "a processor"}, "rows": found, "missing": self.missing}
        Path(task["out"]).write_text(json.dumps(found))
        code = f"print('no such luck'); raise SystemExit({int(peer.name in self.failing)})"
        return [processes.Process([sys.executable, "-c", code])]

    gloo = ranks


def rounds(place, asked, names=NAMES, sizes=(1, 100), tables=None):
    part = Part()
    task = Task(sizes, (), "", 0.1, 1, 1, 1, 1, 0)
    there = [Peer(name, Path("python"), "") for name in names]
    Rounds(SimpleNamespace(write=lambda: None), part, place, there, asked, task, node.cases, tables).run()
    return part


def test_libraries_take_turns_in_an_order_that_is_rotated_and_reversed():
    place = Nowhere()
    report = rounds(place, Asked("node", 2, 3, 3, 0.0, ()))
    assert place.started == [*NAMES, *NAMES[::-1], *NAMES[1:], NAMES[0]]
    assert len(report.rows) == 3 * len(NAMES) * 2
    assert report.machine == {"cpu": "a processor"}


def test_sizes_that_have_had_their_part_of_the_time_get_the_least_rounds():
    report = rounds(Nowhere(), Asked("node", 2, 5, 2, 20.0, ()), [OPEN_MPI])
    assert sorted((row.nbytes, row.round) for row in report.rows) == [
        *((1, number) for number in range(5)),
        *((100, number) for number in range(2)),
    ]


def test_without_sizes_nothing_is_started():
    place = Nowhere()
    assert rounds(place, Asked("node", 2, 5, 2, 20.0, ()), sizes=()).rows == place.started == []


def test_a_library_that_fails_twice_is_left_out_and_named():
    place = Nowhere(failing=[MPICH])
    report = rounds(place, Asked("node", 2, 4, 4, 0.0, ()), [OPEN_MPI, MPICH])
    assert place.started.count(MPICH) == 2
    assert place.started.count(OPEN_MPI) == 4
    first, _, last = report.missing
    assert first.startswith("2 ranks: MPICH, round 1: the job exited with 1: no such luck")
    assert "MPICH: left out of the rounds after 2" in last


def test_a_size_without_room_is_named_and_costs_no_other():
    report = rounds(Nowhere(missing=["1 TiB left out: no room"]), Asked("node", 2, 3, 3, 0.0, ()), [OPEN_MPI])
    first, *_ = missing = report.missing
    assert first == "2 ranks: Open MPI, round 1: 1 TiB left out: no room"
    assert len(missing) == 3
    assert len(report.rows) == 3 * 2


def test_rows_say_whether_there_was_a_table_and_what_buckets_held():
    report = rounds(Nowhere(), Asked("node", 2, 1, 1, 0.0, ()), [OPEN_MPI, MPICH], tables={MPICH: Path("table")})
    assert {each.peer: each.tuned for each in report.rows} == {OPEN_MPI: False, MPICH: True}
    assert report.rows[0].refill[AUTO] == 123460.0


def test_a_case_has_its_part_of_the_time_and_never_none():
    asked = Asked("node", 2, 10, 10, 1000.0, ())
    assert case_seconds(asked, peers=4, sizes=3, cases=7) == pytest.approx((25 - 4) / 21)
    assert case_seconds(asked, peers=400, sizes=3, cases=7) == 0.002


def test_a_job_that_takes_too_long_is_ended():
    why = processes.call([processes.Process([sys.executable, "-c", "import time; time.sleep(100)"])], 0.2)
    assert why.startswith("the job took too long")


def test_one_process_that_fails_ends_the_others():
    sleeper = processes.Process([sys.executable, "-c", "import time; time.sleep(100)"])
    failing = processes.Process([sys.executable, "-c", "raise SystemExit('gone')"])
    assert processes.call([sleeper, failing], 60) == "the job exited with 1: gone"


def test_sizes_that_do_not_fit_into_memory_are_left_out_and_named():
    part = Part()
    assert node.fitting(part, (8, 1 << 40), 2) == (8,)
    assert part.missing[0].startswith("2 ranks: 1 TiB left out: it takes about 12 TiB")


def test_registered_arrays_must_fit_into_shared_memory(monkeypatch):
    monkeypatch.setattr(node, "SHARED_MEMORY", Path("/proc"))  # where nothing is free
    part = Part()
    assert node.fitting(part, (1 << 20,), 2) == ()
    assert part.missing == [
        "2 ranks: 1 MiB left out: its registered arrays take 2 MiB, and /proc has 0 B free",
    ]


# --- what ranks do ---


def test_all_cases_of_a_size_are_called_as_often_in_a_sample():
    task = Task((), (LIBRARY, COPY), "", 0.1, 1, 1, 40, 1, 0)
    with Size(MPI.COMM_SELF, 64, task, None) as size:
        size.prepare()
        assert size.cases[0].call.args[1][1] == MPI.FLOAT  # mpi4py need not look for the type
        calls = []
        for case in size.cases:
            case.call = lambda name=case.name: calls.append(name)
        size.cases[1].call = lambda: (calls.append(COPY), time.sleep(0.02))
        assert size.measure() == 1
    timed = calls[2:]  # those behind the one that warms up
    assert 1 <= timed.count(LIBRARY) == timed.count(COPY) <= 5


def test_cases_of_addresses_begin_where_they_say_and_are_right():
    with Size(MPI.COMM_SELF, 64, Task((), tuple(ADDRESSED), "", 0.1, 1, 1, 1, 1, 0), None) as size:
        size.prepare()
        for case in size.cases:
            source, target = ADDRESSED[case.name][1]
            assert case.buffer.ctypes.data % 4096 == source
            assert case.result.ctypes.data % 4096 == (source if target is None else target)
            assert (case.result is case.buffer) == (target is None)
        size.check()
        assert not any(case.wrong for case in size.cases)
        size.cases[-1].call = lambda: None
        size.check()
        assert size.cases[-1].wrong == 16  # what the one before has written does not count


def test_buckets_refill_at_the_rate_of_the_link_until_they_are_full():
    turns = harness.Turns(harness.OfMpi(MPI.COMM_SELF), 8, SimpleNamespace(link=Link(8 * 10**6, 1000)))
    assert turns.refill([100e-6, 900e-6, 200e-6]) == pytest.approx(200)
    assert turns.refill([1.0]) == 1000


@pytest.mark.parametrize("size", [1, 2, 5, 200])
def test_numbers_of_programs_without_this_package_have_exact_sums(size):
    found = [harness.float32s(rank, size) for rank in range(size)]
    assert np.sum([each.own.astype(float) for each in found], axis=0).tolist() == found[0].sum.astype(float).tolist()
    assert all(each.own.min() > 0 for each in found)
    assert np.log2(found[0].small.max()) + found[0].calls * np.log2(size) <= harness.LARGEST


def test_all_take_turns_in_the_same_order():
    for number in range(7):
        assert harness.order([*"abc"], number) == order([*"abc"], number)


# --- starting ---


def test_hydra_enters_hosts_by_an_agent_and_gloo_enters_each_host():
    hosts = start.Hosts("name", plan.network(3, 10**9), "1gbit", Path("/agent"))
    (process,) = hosts.ranks(Peer(MPICH, Path("/m/bin/python"), ""), 2, ["-m", "program"])
    words = " ".join(process.argv)
    assert "exec --name name -- /m/bin/mpiexec.hydra -launcher ssh -launcher-exec /agent -hosts n1,n2 -ppn 1" in words
    assert process.variables["UCX_TLS"] == "tcp,self"
    (process,) = hosts.ranks(Peer(INTEL, Path("/i/bin/python"), ""), 2, ["-m", "program"])
    assert "-bootstrap ssh -bootstrap-exec /agent" in " ".join(process.argv)
    processes = hosts.gloo(Peer(GLOO, Path("/t/bin/python"), ""), 3, ["program"])
    assert [process.variables["RANK"] for process in processes] == ["0", "1", "2"]
    assert {process.variables["MASTER_ADDR"] for process in processes} == {"10.77.1.1"}
    assert {process.variables["GLOO_SOCKET_IFNAME"] for process in processes} == {"eth0"}
    assert [process.argv[process.argv.index("--host") + 1] for process in processes] == ["n1", "n2", "n3"]


def test_a_library_that_is_not_there_is_missing_with_the_reason(tmp_path):
    (tmp_path / "mpich.log").write_text("ERROR: no matching\n distribution\n")
    found, missing = peers.find((OPEN_MPI, MPICH, GLOO), tmp_path, tmp_path / "python")
    assert found == []
    assert [words.partition(":")[0] for words in missing] == [OPEN_MPI, MPICH, GLOO]
    assert "`make bench` makes it" in missing[0]
    assert missing[1].endswith("its installation said: ERROR: no matching distribution")


def test_a_python_that_cannot_use_it_is_missing_with_its_last_words(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module named torch >&2\nexit 1\n")
    python.chmod(0o755)
    assert peers.find((GLOO,), tmp_path, python) == ([], [f"Gloo: {python} cannot use it: no module named torch"])


# --- numbers in buffers ---


@pytest.mark.parametrize("dtype", values.SMALL)
@pytest.mark.parametrize("size", [2, 4, 7])
def test_small_numbers_bear_as_many_sums_as_they_say_and_are_never_zero(dtype, size):
    numbers = values.numbers_of(0, size, dtype)
    largest, least = (float(pick(np.abs(numbers.small.astype(float)))) for pick in (np.max, np.min))
    assert least >= float(2.0 ** (1 - values.LARGEST[dtype]))  # no subnormal number
    assert largest * float(size) ** numbers.calls <= 2.0 ** values.LARGEST[dtype]
    assert numbers.calls >= halves.SAMPLES.iterations if dtype == "float16" and size == 2 else numbers.calls >= 6


@pytest.mark.parametrize("count", [1, harness.TILE - 1, harness.TILE, 3 * harness.TILE + 5])
def test_buffers_are_filled_and_what_is_wrong_is_counted(count):
    buffer, tile = np.zeros(count, "f4"), np.arange(1, harness.TILE + 1, dtype="f4")
    harness.fill(buffer, tile)
    assert harness.wrong(buffer, tile) == 0
    np.testing.assert_array_equal(buffer, np.resize(tile, count))
    buffer[-1] += 1
    assert harness.wrong(buffer, tile) == 1


def test_a_chunk_that_comes_to_a_wrong_place_is_wrong():
    buffer, tile = np.zeros(1 << 20, "f4"), values.numbers_of(1, 4, "float32").sum
    harness.fill(buffer, tile)
    half = buffer.size // 2
    assert harness.wrong(np.concatenate([buffer[half:], buffer[:half]]), tile) > 0.9 * buffer.size


# --- files ---


CLUSTER = "200mbit"


def report(parts=("node", "algorithms", "halves", "network")):
    machine = {"cores_per_host": 2, "cpu": "a processor"}
    rows = []
    for number in range(3):
        for nbytes in SIZES:
            for peer in NAMES:
                pairs = {name_of(*pair): 0.9 for pair in node.PAIRS}
                us = {case: float(nbytes + number) for case in node.cases(Peer(peer, Path(), ""))}
                rows.append(row(peer, nbytes, number, us=us, ratios=pairs))
                us = {LIBRARY: 4.0 * nbytes, AUTO: 2.0 * nbytes, RAW: 1.0 * nbytes}
                rows.append(row(peer, nbytes, number, "network", CLUSTER, 5, us=us, cores={RAW: 0.5}, tuned=True))
            for peer in MPIS:
                pairs = {name_of(*pair): 1.5 for pair in halves.PAIRS}
                rows.append(row(peer, nbytes, number, "halves", us=dict.fromkeys(KINDS, 1.0), ratios=pairs))
                pairs = {name_of(name, LIBRARY): 2.5 for name in ALGORITHMS}
                rows.append(row(peer, nbytes, number, "algorithms", ratios=pairs))
    found = of([each for name in parts for each in rows if each.part == name])
    for name, part in found.parts.items():
        part.command, part.start_time, part.seconds = ["hpcdist", "bench", name], "2026-01-01", 60.0
        part.machine, part.peers = machine, {OPEN_MPI: "Open MPI v5"}
    if "network" in parts:
        judgement = Judgement(CLUSTER, 5, {"alpha": 1e-6}, 0.2, 10, {"4096": 1.2})
        found.parts[part_of("network", CLUSTER, 5)].judgement = judgement
    return found


def test_a_report_is_read_as_it_was_written(tmp_path):
    made = report()
    made.write(tmp_path / "bench.json")
    assert read(tmp_path / "bench.json", Part) == made
    assert json.loads((tmp_path / "bench.json").read_text())["version"] == 2


def test_an_empty_report_is_one_too(tmp_path):
    Report({}).write(tmp_path / "bench.json")
    assert read(tmp_path / "bench.json", Part) == Report({})


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', '{"version": 2, "parts": {"node": {"rows": [{}]}}}'])
def test_what_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "bench.json").write_text(text)
    with pytest.raises(ValueError, match=r"bench\.json: "):
        read(tmp_path / "bench.json", Part)


def test_a_part_that_is_measured_again_replaces_what_there_was_of_it(tmp_path):
    made = report()
    made.write(tmp_path / "bench.json")
    draft = Draft(KIND, tmp_path)
    draft.start("node")
    assert {each.part for each in draft.report.rows} == {"algorithms", "halves", "network"}
    draft.start(part_of("network", CLUSTER, 6))
    draft.start(part_of("network", CLUSTER, 5))
    assert {each.part for each in draft.report.rows} == {"algorithms", "halves"}
    names = ["node", "algorithms", "halves", *(f"network, {CLUSTER}, {ranks} ranks" for ranks in (5, 6))]
    assert list(draft.report.parts) == names
    assert not any(part.judgement for part in draft.report.parts.values())


def test_a_task_is_read_as_it_was_written(tmp_path):
    for link in (None, Link(10**9, 1 << 18)):
        task = Task((8, 64), (AUTO, LIBRARY), "out", 0.5, 1, 5, 1, 0, 3, link)
        task.write(tmp_path / "task.json")
        assert Task.read(tmp_path / "task.json") == task


# --- tables and figures ---


def lines_with(words, text):
    return [line for line in text.splitlines() if words in line]


def test_the_text_has_all_parts_and_bold_is_what_was_missed():
    text = table.text(report(), {"node-2": "node-2.png"})
    assert "![2 ranks, one machine](node-2.png)" in text
    assert "- ours / best: at most 1.05 at 3 of 3 sizes (faster at 3, a tie at 0), from 0.90 to 0.90." in text
    assert "| 0.90 (0.90-0.90, n=3) |" in text
    for peer in MPIS:
        assert f"## Each algorithm over {peer} in the same jobs" in text
    (judged,) = lines_with("| 200mbit, 5 ranks |", text)
    assert judged == "| 200mbit, 5 ranks | **20.0%** | 90% | 4 KiB: 1.20 |"
    assert lines_with("| all 10 sizes |", text) == ["| all 10 sizes |  | **90%** |  |"]
    assert "1.50 (1.50-1.50, n=3)" in text
    assert "## Missing" not in text
    assert "was right." in text


def test_a_ratio_above_a_tie_is_bold():
    rows = [timed(OPEN_MPI, 0, library=10.0, auto=10.6, registered=10.4)]
    text = table.text(of(rows))
    assert "**1.06 (1.06-1.06, n=1)**" in text
    assert "| 1.04 (1.04-1.04, n=1)" in text
    assert "ours / best: at most 1.05 at 0 of 1 sizes (faster at 0, a tie at 0)" in text
    assert "registered / best: at most 1.05 at 1 of 1 sizes (faster at 0, a tie at 1)" in text


@pytest.mark.parametrize(("us", "told"), [(9.4, "faster at 1, a tie at 0"), (9.6, "faster at 0, a tie at 1")])
def test_a_little_faster_is_a_tie_too(us, told):
    assert f"- ours / best: at most 1.05 at 1 of 1 sizes ({told})" in table.text(
        of([timed(OPEN_MPI, 0, library=10.0, auto=us)])
    )


def test_a_size_without_a_ratio_is_one_of_all_sizes():
    rows = [timed(OPEN_MPI, 0, library=10.0, auto=5.0), row(OPEN_MPI, 64, us={AUTO: 5.0})]
    text = table.text(of(rows))
    assert "at most 1.05 at 1 of 2 sizes (faster at 1, a tie at 0, no ratio at 1), from 0.50 to 0.50." in text
    assert lines_with("| 64 B | - |", text)


def test_a_wrong_result_of_ours_stands_in_the_place_of_its_ratio():
    rows = [timed(peer, i, library=10.0, auto=5.0) for peer in (OPEN_MPI, MPICH) for i in range(3)]
    rows[1] = row(OPEN_MPI, round=1, us=rows[1].us, wrong={AUTO: 1})
    text = table.text(of(rows))
    assert "- ours / best: at most 1.05 at 0 of 1 sizes (faster at 0, a tie at 0, WRONG at 1)." in text
    assert lines_with("| 8 B | **WRONG** |", text)
    assert "| 8 B | **WRONG** | ring/4MiB | 0.50 (0.50-0.50, n=3) | ring/4MiB | 10 | 10 |" in text


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        ({OPEN_MPI, MPICH}, "; `auto` by tables tuned before the rounds."),
        ({OPEN_MPI}, "; `auto` by tables tuned before the rounds, but by default prices on 2 ranks of MPICH."),
        ((), "; `auto` by default prices."),
    ],
)
def test_the_text_says_by_which_tables_auto_went(tuned, said):
    rows = [row(peer, round=i, tuned=peer in tuned) for peer in (OPEN_MPI, MPICH) for i in range(2)]
    made = Report({"node": Part(["hpcdist"], "then", rows=[*rows, timed(GLOO, 0, library=1.0)])})
    assert f"node: then{said}" in table.text(made)


def test_parts_without_tables_do_not_speak_of_them():
    made = report()
    assert table.TABLES_OF_THE_NETWORK in table.text(made)
    text = table.text(report(["algorithms", "halves"]))
    assert lines_with("- algorithms: 2026-01-01, 1 minutes, 2 cores of a processor", text)
    assert lines_with("- halves: 2026-01-01, 1 minutes, 2 cores of a processor; `auto` by default prices.", text)
    assert table.TABLES_OF_THE_NETWORK not in table.text(of([row(part="network", place=CLUSTER)]))


def test_shares_are_those_of_the_limit():
    nbytes = 1 << 24
    seconds = 2 * 4 / 5 * nbytes * 8 / 200e6
    us = {LIBRARY: 2e6 * seconds, AUTO: 1e6 * seconds}
    text = table.text(of([row(OPEN_MPI, nbytes, 0, "network", "200mbit", 5, us=us)]))
    (line,) = lines_with("| 16 MiB |", text)
    assert "| 100% (100%-100%, n=1) | - | 50% (50%-50%, n=1) |" in line


def test_refills_are_parts_of_what_links_carry():
    refill = {AUTO: 4096.0, LIBRARY: 65536.0}
    rows = [row(OPEN_MPI, nbytes, 0, "network", "1gbit", 2, refill=refill) for nbytes in (8, 1 << 18)]
    small, large = (lines_with(f"| {size} |", table.text(of(rows)))[0] for size in ("8 B", "256 KiB"))
    assert small.endswith("| >100% | >100% | 1 |")
    assert large.endswith("| 2% | 25% | 1 |")


def test_what_is_missing_or_wrong_is_in_the_text():
    made = report(["node"])
    made.parts["node"].missing.append("Gloo: there is none")
    made.parts["node"].rows.append(row(wrong={AUTO: 3}))
    text = table.text(made)
    assert "- node: Gloo: there is none" in text
    assert "- node: here, 2 ranks, Open MPI, auto, 8 B, round 1: 3 elements" in text
    assert "**WRONG**" in text
    assert "was right." not in text


def test_a_library_without_results_leaves_no_hole_in_silence():
    text = table.text(of([timed(GLOO, 0, library=3.0)]))
    assert "| 8 B | - | - | Gloo |" in text


def test_figures_are_drawn_of_all_groups_also_with_little_in_them(tmp_path):
    files = figure.write(tmp_path, report())
    assert {file.name for file in files} == {"node-2.png", "network-200mbit-5.png"}
    assert all(file.stat().st_size > 10_000 for file in files)
    assert figure.write(tmp_path, of([timed(GLOO, 0, library=3.0)]))
    assert figure.write(tmp_path, of([row(wrong={AUTO: 1, LIBRARY: 1})]))


# --- tables for auto ---


def chosen_from(tmp_path, algorithm):
    Selection((Rule(7, 1, "float32", (Bracket(None, algorithm, 65536),)),)).write(tmp_path / "table.json")
    return tmp_path / "table.json"


def sweep(times):
    """Records of one size after the other: microseconds of ring and tree."""
    return [
        swept(algorithm=name, nbytes=nbytes, segment_nbytes=65536, ranks=7, nodes=1, us=us, predicted_us=100.0)
        for nbytes, each in times.items()
        for name, us in zip(("ring", "tree"), each, strict=True)
    ]


def test_a_table_is_right_where_its_choice_is_within_5_percent_of_the_best(tmp_path):
    records = sweep({8: (100, 200), 64: (104, 100), 512: (110, 100), 4096: (120, 100)})
    met = []

    def meet(duel):
        met.append(duel)
        return sweep({duel.nbytes: {512: (103, 100), 4096: (108, 100)}[duel.nbytes]})

    judgement = tuning.judge("200mbit", 7, chosen_from(tmp_path, "ring"), records)
    assert judgement.near is None
    judgement = tuning.judge_again(judgement, tmp_path / "table.json", records, meet)
    cases = (("ring", 65536), ("tree", 65536))
    assert met == [tuning.Duel(512, cases), tuning.Duel(4096, cases)]  # those that seem to be behind
    assert judgement.near == 0.75
    assert judgement.worse == {"4096": pytest.approx(1.08)}


def test_a_duel_names_both_cases_and_their_segments_once():
    flags = tuning.Duel(512, (("ring", 65536), ("ring", None))).flags()
    assert flags[flags.index("--algorithms") + 1 :] == ["ring", "--segment-bytes", "65536,0"]


def test_the_error_of_the_model_is_relative_to_what_was_measured():
    assert tuning.error(sweep({8: (200, 50), 64: (100, 400)})) == pytest.approx((0.5 + 0.75) / 2)


# --- command line ---


def called(tmp_path, verb, *words):
    places = ["--out", str(tmp_path)]
    if verb not in ("table", "commits"):
        places += ["--environments", str(tmp_path)]
    return CliRunner().invoke(main, ["bench", verb, *places, *words])


def test_text_and_figures_are_made_anew_from_the_numbers(tmp_path):
    report().write(tmp_path / "bench.json")
    done = called(tmp_path, "table")
    assert done.exit_code == 0, done.output
    assert "![2 ranks, one machine](node-2.png)" in (tmp_path / "bench.md").read_text()


def test_without_numbers_there_is_no_text(tmp_path):
    assert "measure a part first" in called(tmp_path, "table").output


def test_without_any_library_the_report_says_so_and_the_command_fails(tmp_path):
    done = called(tmp_path, "node", "--torch", str(tmp_path / "none"), "--no-tune")
    assert done.exit_code == 1
    text = (tmp_path / "bench.md").read_text()
    assert all(f"- node: {name}: there is no " in text for name in NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["node", "--sizes", "6"], "no whole number of float32"),
        (["node", "--ranks", "1"], "no number of ranks"),
        (["node", "--peers", "NCCL"], "no library 'NCCL'"),
        (["network", "--rates", "fast"], "no rate"),
        (["commits"], "Missing option '--old'"),
        (["commits", "--old", "HEAD", "--hosts", "1"], "no number of ranks"),
    ],
)
def test_what_cannot_be_measured_is_refused(tmp_path, words, said):
    done = called(tmp_path, *words)
    assert done.exit_code == 2
    assert said in done.output


def test_all_shares_its_seconds_out(tmp_path, monkeypatch):
    given = {}
    for part in (node, algorithms, halves, addresses, network):
        monkeypatch.setattr(
            part, "measure", lambda draft, beside, part_name=part.PART, **asked: given.update({part_name: asked})
        )
    called(tmp_path, "all", "--seconds", "780")
    seconds = {name: each["seconds"] for name, each in given.items()}
    points = len(given["network"]["rates"]) * len(given["network"]["ranks"])
    assert sum(seconds.values()) + (points - 1) * seconds["network"] == pytest.approx(780)
    assert seconds["node"] / seconds["network"] == pytest.approx(node.SECONDS / network.SECONDS)


def test_a_commit_that_git_does_not_have_is_refused(tmp_path):
    done = called(tmp_path, "commits", "--old", "no-such-commit")
    assert done.exit_code == 1
    assert "Error: fatal: " in done.output
    assert not (tmp_path / "bench.json").exists()
