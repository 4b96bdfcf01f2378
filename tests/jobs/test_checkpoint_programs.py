"""The programs that measure checkpoints, on real ranks; what they measure here says nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcdist.bench.checkpoints.record import Report
from hpcdist.bench.checkpoints.ways import BACKGROUND, PLAIN, RAW, SHARDS, SINGLE

pytestmark = pytest.mark.long

MIB = 1 << 20
REPORT = [sys.executable, "-m", "hpcdist.bench.checkpoints.report"]
RUN = [sys.executable, "-m", "hpcdist", "run", "-n", "2", "--"]


def states() -> set[Path]:
    return set(Path("/dev/shm").glob("hpcdist-state-*"))


def test_the_report_has_all_ways_restores_right_and_leaves_nothing_behind(tmp_path):
    before = states()
    (tmp_path / "scratch").mkdir()
    options = ["--ranks", "1,2", "--sizes", "1MiB,9MiB", "--rounds", "3", "--seconds", "0"]
    places = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*REPORT, *options, *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = Report.read(tmp_path / "out" / "benchmark.json")
    assert (report.missing, report.wrong) == ([], [])
    assert {(save.ranks, save.nbytes) for save in report.saves} == {(r, n * MIB) for r in (1, 2) for n in (1, 9)}
    assert {save.way for save in report.saves} >= {BACKGROUND, SHARDS, SINGLE, PLAIN, RAW}
    assert {(load.savers, load.ranks) for load in report.loads} == {(1, 1), (2, 2), (2, 1)}
    assert [save.writers for save in report.saves if save.ranks == 2 and save.way == RAW] == [1, 2]
    assert all(save.blocking.median <= save.total.median and save.rounds == 3 for save in report.saves)
    assert all(save.written >= save.nbytes for save in report.saves)
    assert (tmp_path / "out" / "benchmark.md").exists()
    assert (tmp_path / "out" / "benchmark.png").exists()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert states() <= before


def test_a_report_that_is_told_to_end_keeps_what_it_has_and_removes_its_folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    options = ["--ranks", "1,2", "--sizes", "1MiB", "--rounds", "1000", "--seconds", "1000"]
    places = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*REPORT, *options, *places], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "scratch").glob("*/hpcdist-benchmark-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    report = Report.read(tmp_path / "out" / "benchmark.json")
    assert report.missing == [
        "1 ranks: interrupted; not measured: 1 MiB",
        "2 ranks: not begun when the report was interrupted",
    ]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_cost_in_a_run_is_measured_on_real_periods(tmp_path):
    options = ["--state", "9MiB", "--every", "0.2", "--seconds", "0.4", "--rounds", "2", "--scratch", str(tmp_path)]
    program = [sys.executable, "-m", "hpcdist.bench.overhead", *options, "--out", str(tmp_path / "cost")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*RUN, *program], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["config"]["state"] >= 9 * MIB
    assert [[len(period["blocking"]) for period in each.values()] for each in found["rounds"]] == [[0, 2, 2], [2, 2, 0]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cost.json", "cost.md"]
