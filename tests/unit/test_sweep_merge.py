"""Several sweeps as one."""

import csv
import json
from datetime import datetime, timedelta

import pytest
from click.testing import CliRunner
from sweep_records import pair

from hpcdist.cli.main import main
from hpcdist.sweep.record import Report, read_json, write_json
from hpcdist.tuning.table import Selection

NOON = datetime.fromisoformat("2026-01-02T12:00:00+00:00")


def swept(file, ranks, us, hour=0, algorithm="ring", **fields):
    """A sweep of one point on `ranks` ranks, one on each node."""
    records = pair(algorithm, us=(us, us), ranks=ranks, nodes=ranks, **fields)
    model = {"alpha": 1e-6 * ranks, "beta": 1e-9, "gamma": 1e-10}
    machine = {"ranks": ranks, "mpi": "Open MPI v5.0.0"}
    write_json(file, Report(NOON + timedelta(hours=hour), ["hpcdist", "sweep"], machine, {}, model, records))
    return records


def merge(*arguments):
    return CliRunner().invoke(main, ["merge", *map(str, arguments)])


def test_a_report_is_read_as_it_was_written(tmp_path):
    records = swept(tmp_path / "a.json", 4, 10.0)
    head, found = read_json(tmp_path / "a.json")
    assert found == records
    assert head["machine"] == {"ranks": 4, "mpi": "Open MPI v5.0.0"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "results": [{}]}', "\x00", "3"])
def test_what_is_no_report_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    done = merge(tmp_path / "a.json")
    assert done.exit_code == 1
    assert "a.json: not what `hpcdist sweep --json` writes" in done.output


def test_a_report_of_another_version_is_refused(tmp_path):
    (tmp_path / "a.json").write_text('{"version": 99, "results": []}')
    assert "version 99" in merge(tmp_path / "a.json").output


def test_all_files_hold_the_results_of_all(tmp_path):
    wanted = [record.row() for record in swept(tmp_path / "2.json", 2, 10.0) + swept(tmp_path / "4.json", 4, 30.0)]
    done = merge(
        tmp_path / "4.json", tmp_path / "2.json", "--json", tmp_path / "all.json", "--csv", tmp_path / "all.csv",
        "--figure", tmp_path / "all", "--tune", tmp_path / "selection.json",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "all.json").read_text())
    assert document["results"] == wanted
    assert [sweep["machine"]["ranks"] for sweep in document["sweeps"]] == [2, 4]
    with (tmp_path / "all.csv").open(newline="") as file:
        assert [int(row["ranks"]) for row in csv.DictReader(file)] == [2, 2, 4, 4]
    figure = (tmp_path / "all.svg").read_text()
    assert "2 ranks, 2 nodes, float32, sum" in figure
    assert "All-reduce on 2 or 4 ranks" in figure
    table = Selection.load(tmp_path / "selection.json")
    assert [(rule.size, rule.nodes) for rule in table.rules] == [(2, 2), (4, 4)]
    assert table.model.alpha == pytest.approx(4e-6)


def test_the_later_of_two_measurements_counts(tmp_path):
    swept(tmp_path / "new.json", 4, 20.0, hour=1)
    swept(tmp_path / "old.json", 4, 10.0)
    assert merge(tmp_path / "new.json", tmp_path / "old.json", "--json", tmp_path / "all.json").exit_code == 0
    results = json.loads((tmp_path / "all.json").read_text())["results"]
    assert [row["time_us_p50"] for row in results] == pytest.approx([20.0, 20.0])


def test_the_later_counts_also_where_clocks_are_of_different_zones(tmp_path):
    earlier, later = "2026-01-02T13:00:00+05:00", "2026-01-02T12:00:00+00:00"  # 8 and 12 o'clock
    for name, start, us in (("a", later, 1.0), ("b", earlier, 2.0)):
        swept(tmp_path / f"{name}.json", 4, us)
        head = json.loads((tmp_path / f"{name}.json").read_text())
        (tmp_path / f"{name}.json").write_text(json.dumps({**head, "start_time": start}))
    merge(tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "all.json")
    _, records = read_json(tmp_path / "all.json")
    assert {record.times.time_us_p50 for record in records} == {1.0}


def test_what_was_merged_can_be_merged_again(tmp_path):
    swept(tmp_path / "2.json", 2, 10.0)
    swept(tmp_path / "4.json", 4, 30.0, hour=1)
    swept(tmp_path / "4-later.json", 4, 20.0, hour=3)
    swept(tmp_path / "4-between.json", 4, 40.0, hour=2)
    merge(tmp_path / "2.json", tmp_path / "4.json", tmp_path / "4-later.json", "--json", tmp_path / "some.json")
    once = merge(tmp_path / "some.json", "--json", tmp_path / "again.json")
    assert once.exit_code == 0, once.output
    assert read_json(tmp_path / "again.json") == read_json(tmp_path / "some.json")
    merge(tmp_path / "some.json", tmp_path / "4-between.json", "--json", tmp_path / "all.json")
    head, records = read_json(tmp_path / "all.json")
    assert {(record.ranks, record.times.time_us_p50) for record in records} == {(2, 10.0), (4, 20.0)}
    assert len(head["sweeps"]) == 4


def test_wrong_elements_are_an_exit_code(tmp_path):
    swept(tmp_path / "a.json", 4, 20.0, wrong=3)
    assert merge(tmp_path / "a.json").exit_code == 1


def test_a_lone_rank_has_no_panel(tmp_path):
    swept(tmp_path / "1.json", 1, 1.0)
    assert merge(tmp_path / "1.json", "--figure", tmp_path / "f.svg").exit_code == 0
    assert not (tmp_path / "f.svg").exists()


def test_measurements_in_different_segments_are_all_kept(tmp_path):
    swept(tmp_path / "old.json", 4, 20.0, segment_nbytes=65536)
    swept(tmp_path / "new.json", 4, 10.0, hour=1, segment_nbytes=1 << 20)
    out = ["--json", tmp_path / "all.json", "--tune", tmp_path / "selection.json"]
    assert merge(tmp_path / "old.json", tmp_path / "new.json", *out).exit_code == 0
    assert len(json.loads((tmp_path / "all.json").read_text())["results"]) == 4
    (rule,) = Selection.load(tmp_path / "selection.json").rules
    assert [bracket.segment_nbytes for bracket in rule.choose] == [1 << 20]


def test_measurements_in_other_memory_or_on_another_path_are_all_kept(tmp_path):
    swept(tmp_path / "host.json", 4, 20.0)
    swept(tmp_path / "staged.json", 4, 30.0, hour=1, memory="cuda", path="staged")
    swept(tmp_path / "peer.json", 4, 10.0, hour=2, memory="cuda", path="peer")
    out = ["--json", tmp_path / "all.json", "--tune", tmp_path / "selection.json", "--figure", tmp_path / "all.svg"]
    assert merge(*tmp_path.glob("*.json"), *out).exit_code == 0
    assert len(json.loads((tmp_path / "all.json").read_text())["results"]) == 6
    rules = Selection.load(tmp_path / "selection.json").rules
    assert [(rule.memory, rule.path) for rule in rules] == [("host", "host"), ("cuda", "peer"), ("cuda", "staged")]
    assert "float32, sum, peer" in (tmp_path / "all.svg").read_text()
