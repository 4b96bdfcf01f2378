"""The table of awkward numbers of ranks: who wins, how far the model is off, what auto was worth; made-up times."""

import json

import pytest
from click.testing import CliRunner

from hpcdist.bench.awkward import table
from hpcdist.bench.awkward.measure import names, racks_of
from hpcdist.bench.awkward.record import Record, Run
from hpcdist.cluster import plan
from hpcdist.sweep.record import LIBRARY

MODEL = {"alpha": 5e-5, "beta": 4e-8, "gamma": 1e-11, "node_alpha": None, "node_beta": None}
TIMES = {"ring": 1000, "halving_doubling": 2000, "binary_blocks": 900, "recursive_doubling": 3000, "circulant": 800}


def record(case, us, nbytes=1 << 20, predicted=1000.0, wrong=0, algorithm=None):
    if case == LIBRARY:
        return Record(case, None, nbytes, 5, 2, us, us, us, None, wrong)
    return Record(case, algorithm or case, nbytes, 5, 2, us, us, us, predicted, wrong)


def records(nbytes=1 << 20, wrong=0, **times):
    times = {**TIMES, **times}
    ours = [record(case, us, nbytes, wrong=wrong * (case == "ring")) for case, us in times.items()]
    return [record(LIBRARY, 1600, nbytes), *ours, record("auto", 1200, nbytes, algorithm="ring")]


def run(ranks=6, racks=1, results=None):
    machine = {"hosts": [f"n{i}" for i in range(ranks)], "mpi": "Some MPI 1.0", "cpu": "a processor"}
    return Run(["python"], "2026-01-31T00:00:00", machine, racks_of(ranks, racks), racks, MODEL, results or records())


@pytest.mark.parametrize(
    ("ours", "verdict"), [(94, "wins"), (96, "even"), (100, "even"), (104, "even"), (106, "loses"), (1000, "loses")]
)
def test_a_small_difference_is_none(ours, verdict):
    assert table.verdict(ours, [300, 100]) == verdict


def line(report, start):
    return next(line for line in report.splitlines() if line.startswith(start))


def test_binary_blocks_may_win_against_the_classics_and_lose_against_all_of_ours():
    report = table.text([run()])
    assert line(report, "6 ranks, 1 MiB").split()[-4:] == ["wins", "even", "loses", "even"]


def test_the_library_and_auto_are_none_of_the_others():
    slow = run(results=[record(case, 1 if case in (LIBRARY, "auto") else us) for case, us in TIMES.items()])
    slow.results += [record(LIBRARY, 1), record("auto", 1)]
    assert line(table.text([slow]), "6 ranks, 1 MiB").split()[-2] == "loses"  # against circulant, not against these
    slow.results = [each for each in slow.results if each.case != "circulant"]
    assert line(table.text([slow]), "6 ranks, 1 MiB").split()[-2] == "wins"


def test_the_error_is_the_median_of_what_is_off_either_way():
    assert table.error([record("ring", us) for us in (500, 1100, 4000)]) == pytest.approx(0.5)
    each = run(results=[*records(8, ring=1100), *records(64, ring=700), *records(512, ring=1050)])
    assert line(table.text([each]).partition("median of |")[2], "ring").split() == ["ring", "10"]


def test_times_stand_beside_what_was_predicted():
    report = table.text([run()])
    assert line(report, "binary_blocks   ").split() == ["binary_blocks", "0.9", "x0.90"]
    assert line(report, LIBRARY).split() == [LIBRARY, "1.6"]


def test_the_choice_of_auto_is_beside_the_fastest_and_the_library():
    said = [line for line in table.text([run()]).splitlines() if line.startswith("6 ranks, 1 MiB")]
    assert said[-1].split(maxsplit=4)[-1] == "ring, 1.50 of circulant, 0.75 of MPI_Allreduce"


def test_runs_on_as_many_ranks_in_racks_are_told_apart():
    lines = [line.partition("  ")[0] for line in table.text([run(6), run(6, racks=2)]).splitlines()]
    assert lines.count("6 ranks, 1 MiB") == lines.count("6, 2 racks, 1 MiB") == 2


def test_wrong_elements_are_said_and_make_it_fail(tmp_path):
    run(results=records(wrong=3)).write_json(tmp_path / "a.json")
    done = CliRunner().invoke(table.main, [str(tmp_path / "a.json")])
    assert done.exit_code == 1
    assert "# WRONG: ring, 6 ranks on 6 hosts, 1 MiB: 3 elements" in done.output
    assert "none was wrong" not in done.output


def test_runs_are_read_as_they_were_written_and_shown_in_order(tmp_path):
    runs = [run(12), run(5), run(6, racks=2)]
    for number, each in enumerate(runs):
        each.write_json(tmp_path / f"{number}.json")
        assert table.text([Run.read(tmp_path / f"{number}.json")]) == table.text([each])
    files = [str(path) for path in sorted(tmp_path.glob("*.json"))]
    done = CliRunner().invoke(table.main, [*files, "--out", str(tmp_path / "t.txt")])
    assert done.exit_code == 0
    assert (tmp_path / "t.txt").read_text() == done.output
    titles = [line.partition(":")[0] for line in done.output.splitlines() if "Some MPI" in line]
    assert titles == ["5 ranks on 5 hosts", "12 ranks on 12 hosts", "6 ranks on 6 hosts in 2 racks"]


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"version": 9}), json.dumps({"version": 1})])
def test_what_is_no_record_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    done = CliRunner().invoke(table.main, [str(tmp_path / "x.json")])
    assert done.exit_code == 1
    assert "x.json: " in done.output


@pytest.mark.parametrize(("size", "racks"), [(5, 2), (6, 2), (7, 3), (12, 5), (3, 1)])
def test_ranks_are_in_the_racks_of_the_hosts_of_a_virtual_cluster(size, racks):
    rate = 10**6 if racks > 1 else None
    network = plan.network(size, 10**6, racks, rate)
    assert racks_of(size, racks) == tuple(host.rack - 1 for host in network.hosts)


def test_hierarchical_is_measured_only_where_there_is_a_hierarchy():
    assert "hierarchical" in names((0, 0, 0, 1, 1))
    assert "hierarchical" not in names((0, 0, 0))
    assert "hierarchical" not in names((0, 1, 2))
