"""The text of a sweep: nccl-tests' table to the byte, and the wide one."""

from datetime import datetime
from pathlib import Path

import pytest
from sweep_records import pair, record

from hpcdist.sweep import report, tune
from hpcdist.sweep.record import Report

# The header and rows that nccl-tests' own format strings give for these numbers, trailing blanks included.
NCCL_TABLE = Path(__file__).with_name("nccl_table.txt").read_text()


def test_rows_and_header_are_those_of_nccl_tests():
    records = [
        *pair(nbytes=8, us=(12.34, 11.90)),
        *pair(nbytes=1 << 20, us=(85.20, 84.90)),
        *pair(nbytes=1 << 30, us=(12345.6, 12301.2)),
    ]
    text = "\n".join(report.nccl(records)) + "\n"
    assert text == "#\n# Algorithm: ring, segments of 64 KiB\n#\n" + NCCL_TABLE


def test_each_algorithm_type_and_operation_has_its_table():
    records = [*pair("ring"), *pair("tree"), *pair("ring", nbytes=8), *pair("ring", op="max")]
    titles = [line for line in report.nccl(records) if "Algorithm" in line]
    assert [title.split()[2] for title in titles] == ["ring,", "tree,", "ring,"]


@pytest.mark.parametrize(
    ("value", "width", "text"),
    [
        (0, 6, "  0.00"),
        (999.99, 6, "999.99"),
        (1234.5, 6, "1234.5"),
        (12345.6, 6, " 12346"),
        (123456.4, 6, "123456"),
        (1234567, 6, " 1e+06"),
        (12345.67, 7, "12345.7"),
        (12345678, 7, "1.2e+07"),
    ],
)
def test_numbers_shrink_to_fit(value, width, text):
    assert report.fit(value, width) == text


def test_wrong_elements_are_counted_and_cases_fail():
    records = [record(wrong=3), record("tree", wrong=0)]
    assert "# Out of bounds values : 1 FAILED" in list(report.foot(records))
    assert "# Out of bounds values : 0 OK" in list(report.foot(records[1:]))
    row = list(report.nccl(pair(wrong=1234)))[-1]
    assert row.count("  1234") == 2


def test_what_was_not_checked_is_not_called_right():
    row = list(report.nccl(pair(wrong=None)))[-1]
    assert row.count("N/A") == 2
    assert "N/A" in report.wide_row(record(wrong=None))


def test_the_mean_bandwidth_is_over_all_rows():
    records = pair(us=(100.0, 50.0))
    mean = (records[0].busbw + records[1].busbw) / 2
    assert f"# Avg bus bandwidth    : {mean:g} " in list(report.foot(records))


def test_each_segment_has_its_table():
    records = [*pair(), *pair(segment_nbytes=1 << 20), *pair(segment_nbytes=1 << 30)]
    titles = [line for line in report.nccl(records) if "Algorithm" in line]
    assert [title.partition(", ")[2] for title in titles] == [
        "segments of 64 KiB",
        "segments of 1 MiB",
        "whole messages",
    ]


def test_the_prediction_stands_beside_every_row_and_what_is_slow_is_marked():
    records = [*pair(us=(90.0, 180.0)), *pair(nbytes=8, us=(90.0, 90.0)), *pair("library:ring", predicted_us=None)]
    lines = list(report.model(records))
    assert all(line.startswith("#") for line in lines)
    assert [line.split()[-4:] for line in lines if "ring" in line] == [
        ["90.0", "x1.00", "!", "x2.00"],
        ["sum", "90.0", "x1.00", "x1.00"],
    ]
    assert list(report.model(pair("MPI_Allreduce", predicted_us=None))) == []
    assert "! x2.00" in report.wide_row(records[1])


def test_no_results_are_no_error():
    assert "# Avg bus bandwidth    : 0 " in list(report.foot([]))


def test_the_wide_table_has_one_width():
    rows = [report.wide_row(r) for r in (record(), record("MPI_Allreduce", 8, sent_bytes=None, predicted_us=None))]
    assert {len(line) for line in rows} == {len(report.WIDE_HEADER[-1])}
    assert "1.75 MiB" in rows[0]


@pytest.mark.parametrize(
    ("change", "note"),
    [({"ranks": 1}, "a lone rank"), ({"oversubscribed": True}, "8 ranks share 2 cores"), ({}, None)],
)
def test_the_head_warns_of_numbers_that_mislead(change, note):
    machine = {
        "hosts": ["n1"],
        "cpu": "a processor",
        "cores_per_host": 2,
        "ranks": 8,
        "ranks_per_node": [8],
        "oversubscribed": False,
        "mpi": "MPICH 4",
    }
    model = {"alpha": 1e-6, "beta": 1e-10, "gamma": 0.0}
    text = report.head(
        Report(datetime(2026, 1, 1), ["hpcdist"], {**machine, **change}, {"timing": "barrier"}, model, [])
    )
    notes = [line for line in text if "note" in line]
    assert [note in line for line in notes] == ([True] if note else [])


def test_each_path_of_device_buffers_has_its_table_and_host_buffers_have_theirs_as_ever():
    records = [
        *pair("ring"),
        *pair("ring", memory="cuda", path="staged"),
        *pair("ring", memory="cuda", path="peer"),
        *pair("MPI_Allreduce", segment_nbytes=None, memory="cuda", path="staged"),
    ]
    titles = [line for line in report.nccl(records) if "Algorithm" in line]
    assert titles == [
        "# Algorithm: ring, segments of 64 KiB",
        "# Algorithm: ring, segments of 64 KiB, cuda memory, path staged",
        "# Algorithm: ring, segments of 64 KiB, cuda memory, path peer",
        "# Algorithm: MPI_Allreduce, cuda memory, path staged",
    ]


def test_the_wide_table_says_memory_and_path():
    header, row = report.WIDE_HEADER[-1].split(), report.wide_row(record(memory="cuda", path="peer")).split()
    assert header.index("memory") + 1 == header.index("path")
    assert row.index("cuda") + 1 == row.index("peer")
    assert report.wide_row(record()).split().count("host") == 2


def test_devices_are_told_with_how_many_ranks_share_one():
    found = {"kind": "cuda", "names": {"A GPU": 2}, "ranks_per_device": [2, 4], "versions": {"driver": "550.1"}}
    assert report.devices(found) == "cuda, 2 x A GPU, up to 4 ranks on each, driver 550.1"
    assert "ranks" not in report.devices({**found, "ranks_per_device": [1, 1]})


def test_the_answer_is_the_fastest_of_ours_at_each_size_beside_the_library():
    times = {"ring": (9.0, 80.0), "tree": (4.0, 200.0), "MPI_Allreduce": (5.0, 160.0)}
    records = [
        each
        for number, nbytes in enumerate((8, 1 << 20))
        for name, us in times.items()
        for each in pair(name, nbytes, (us[number], us[number]), **({"segment_nbytes": None} if "MPI" in name else {}))
    ]
    told = [line.split() for line in report.answer([*records, *pair("direct", 8, (1.0, 1.0), wrong=1)])]
    assert told[1][1:] == ["The", "fastest", "of", "ours,", "8", "ranks", "on", "2", "nodes,", "float32"]
    assert told[3] == ["#", "8", "B", "tree", "64KiB", "4", "5", "0.80"]
    assert told[4] == ["#", "1", "MiB", "ring", "64KiB", "80", "160", "0.50"]


def test_without_the_library_the_answer_is_ours_alone_and_without_ours_there_is_none():
    assert [*report.answer(pair("ring", 8, (9.0, 9.0)))][-1].split()[-3:] == ["9", "-", "-"]
    assert not [*report.answer(pair("MPI_Allreduce", 8, (9.0, 9.0)))]
    assert not [*report.answer([])]


def test_a_table_is_told_in_words():
    us = {("tree", 8): 1.0, ("ring", 8): 9.0, ("ring", 1024): 1.0, ("tree", 1024): 9.0}
    rules = tune.rules([each for (name, nbytes), time in us.items() for each in pair(name, nbytes, (time, time))])
    assert [line.split() for line in report.in_words(rules)] == [
        ["#", "table,", "8", "ranks", "on", "2", "nodes,", "float32:"],
        ["#", "up", "to", "91", "B", "tree,", "segments:", "64KiB"],
        ["#", "above", "ring,", "segments:", "64KiB"],
    ]
