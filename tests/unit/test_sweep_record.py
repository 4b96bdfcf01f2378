"""Records, and the files that hold them."""

import csv
import json
from datetime import datetime

import numpy as np
import pytest
from sweep_records import pair, record

from hpcdist.sweep.record import Record, Report, Times, bandwidths, write_csv, write_json


def test_bandwidths_are_decimal_and_by_nccl_tests_definition():
    algbw, busbw = bandwidths(1 << 30, 12345.6e-6, 8)
    assert algbw == pytest.approx(86.97, abs=0.005)
    assert busbw == pytest.approx(152.20, abs=0.005)
    assert bandwidths(8, 1e-6, 1)[1] == 0


def test_statistics_are_samples_that_were_measured():
    seconds = np.arange(1, 101) * 1e-6
    times = Times.of(np.random.default_rng(0).permutation(seconds))
    found = (times.time_us_min, times.time_us_p50, times.time_us_p95, times.time_us_p99, times.time_us_max)
    assert found == pytest.approx((1, 50, 95, 99, 100))
    assert times.time_us_mean == pytest.approx(50.5)


def test_one_sample_is_all_its_statistics():
    assert set(vars(Times.of(np.array([2e-6]))).values()) == {2.0}


def test_json_holds_one_flat_row_per_record(tmp_path):
    report = Report(datetime(2026, 1, 2), ["hpcdist", "sweep"], {"ranks": 8}, {}, {"alpha": 1e-6}, pair())
    write_json(tmp_path / "new" / "sweep.json", report)
    document = json.loads((tmp_path / "new" / "sweep.json").read_text())
    assert document["version"] == 1
    assert document["command"] == ["hpcdist", "sweep"]
    assert document["interrupted"] is False
    assert [row["placement"] for row in document["results"]] == ["out_of_place", "in_place"]
    assert document["results"][1] == record().row()
    assert document["results"][0]["time_us_p50"] == pytest.approx(100)
    assert not any(isinstance(value, (dict, list)) for value in document["results"][0].values())


def test_csv_holds_the_same(tmp_path):
    write_csv(tmp_path / "sweep.csv", pair("MPI_Allreduce", sent_bytes=None, command='hpcdist sweep "a, b"'))
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    assert list(rows[0]) == list(record().row())
    assert rows[0]["command"] == 'hpcdist sweep "a, b"'
    assert rows[0]["sent_bytes"] == ""
    assert float(rows[0]["busbw"]) == record().busbw


def test_csv_without_records_is_its_line_of_names(tmp_path):
    write_csv(tmp_path / "sweep.csv", [])
    assert (tmp_path / "sweep.csv").read_text().startswith("algorithm,nbytes,count,dtype,op,placement,")


def test_a_row_says_where_buffers_lie_and_how_they_travel():
    row = record(memory="cuda", path="peer").row()
    assert (row["memory"], row["path"]) == ("cuda", "peer")
    assert Record.of(row) == record(memory="cuda", path="peer")


def test_a_row_that_tells_nothing_of_memory_is_one_of_host_buffers():
    row = {name: value for name, value in record().row().items() if name not in ("memory", "path")}
    assert Record.of(row) == record()
    assert (record().memory, record().path) == ("host", "host")


def test_a_row_without_another_column_is_none():
    row = {name: value for name, value in record().row().items() if name != "wrong"}
    with pytest.raises(KeyError, match="wrong"):
        Record.of(row)
