"""The programs that measure checkpoints, on real ranks; what they measure here says nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hpcdist.bench.checkpoints.report import BACKGROUND, PLAIN, RAW, SHARDS, SINGLE, Load, Part, Save
from hpcdist.bench.overhead.report import KINDS
from hpcdist.bench.overhead.report import Part as Costs
from hpcdist.bench.saved import read

pytestmark = pytest.mark.long

MIB = 1 << 20
BENCH = [sys.executable, "-m", "hpcdist", "bench"]


def states() -> set[Path]:
    return set(Path("/dev/shm").glob("hpcdist-state-*"))


def test_the_report_has_all_ways_restores_right_and_leaves_nothing_behind(tmp_path):
    before = states()
    (tmp_path / "scratch").mkdir()
    options = ["--ranks", "1,2", "--sizes", "1MiB,9MiB", "--rounds", "3", "--seconds", "0"]
    places = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")]
    done = subprocess.run([*BENCH, "checkpoints", *options, *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report = read(tmp_path / "out" / "checkpoints.json", Part)
    assert list(report.parts) == ["1 rank", "2 ranks"]
    assert (report.missing, report.wrong) == ([], [])
    saves = [row for row in report.rows if isinstance(row, Save)]
    loads = [row for row in report.rows if isinstance(row, Load)]
    assert {(save.ranks, save.nbytes) for save in saves} == {(r, n * MIB) for r in (1, 2) for n in (1, 9)}
    assert {save.way for save in saves} >= {BACKGROUND, SHARDS, SINGLE, PLAIN, RAW}
    assert {(load.savers, load.ranks) for load in loads} == {(1, 1), (2, 2), (2, 1)}
    assert [save.writers for save in saves if save.ranks == 2 and save.way == RAW] == [1, 2]
    assert all(save.blocking.median <= save.total.median and save.rounds == 3 for save in saves)
    assert all(save.written >= save.nbytes for save in saves)
    assert (tmp_path / "out" / "checkpoints.md").exists()
    assert (tmp_path / "out" / "checkpoints.png").exists()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert states() <= before


def test_a_report_that_is_told_to_end_keeps_what_it_has_and_removes_its_folder(tmp_path):
    (tmp_path / "scratch").mkdir()
    options = ["--ranks", "1,2", "--sizes", "1MiB", "--rounds", "1000", "--seconds", "1000"]
    places = ["--scratch", str(tmp_path / "scratch"), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*BENCH, "checkpoints", *options, *places], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "scratch").glob("*/shards")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    report = read(tmp_path / "out" / "checkpoints.json", Part)
    assert report.missing == ["1 rank: interrupted: what comes after was not measured"]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_cost_in_a_run_is_measured_on_real_periods(tmp_path):
    options = ["--state", "9MiB", "--every", "0.2", "--seconds", "0.4", "--rounds", "2", "--ranks", "2"]
    places = ["--scratch", str(tmp_path), "--out", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*BENCH, "overhead", *options, *places]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    part = read(tmp_path / "out" / "overhead.json", Costs).parts["2 ranks"]
    assert part.state >= 9 * MIB
    assert [row.kind for row in part.rows] == [*KINDS, *KINDS[::-1]]
    assert [len(row.blocking) for row in part.rows] == [0, 2, 2, 2, 2, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["overhead.json", "overhead.md"]
