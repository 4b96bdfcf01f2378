"""Ours beside the MPI of this environment, measured by real jobs; what they measure here says nothing."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mpi4py import MPI

import hpcdist
from hpcdist.bench.node import OURS
from hpcdist.bench.peers import FOLDERS, NEW, OLD
from hpcdist.bench.record import Part
from hpcdist.bench.saved import read
from hpcdist.bench.start import CLI
from hpcdist.bench.task import ADDRESSED, AUTO, CALL, COPY, KINDS, LIBRARY, NAMES, REGISTERED, Task
from hpcdist.mpi.launcher import maker

pytestmark = pytest.mark.long

NAME = maker(MPI.Get_library_version())
BENCH = [sys.executable, "-m", "hpcdist", "bench"]


@pytest.fixture
def places(tmp_path):
    """Options that name this environment as that of its MPI, and where the report goes."""
    (tmp_path / FOLDERS[NAME]).symlink_to(sys.prefix)
    return ["--environments", str(tmp_path), "--out", str(tmp_path / "out"), "--peers", NAME]


def node(*words):
    return ["--ranks", "2", "--no-tune", "--seconds", "0", *words]


def test_all_cases_are_measured_and_right(tmp_path, places):
    command = [*BENCH, "node", *places, *node("--sizes", "8,300KiB", "--rounds", "2")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = read(tmp_path / "out" / "bench.json", Part)
    missing = [what for what in report.parts["node"].missing if "not asked for" not in what]
    assert missing == [], done.stderr
    assert report.wrong == []
    assert sorted((row.nbytes, row.round) for row in report.rows) == [(8, 0), (8, 1), (300 << 10, 0), (300 << 10, 1)]
    for row in report.rows:
        assert row.peer == NAME
        assert 3 <= row.samples <= 21
        assert set(row.us) == set(row.wrong) == set(OURS) == {LIBRARY, AUTO, REGISTERED, CALL, COPY}
        assert all(us > 0 for us in row.us.values())
        assert row.ratios["auto / library"] > 0
        assert row.chosen
    text = (tmp_path / "out" / "bench.md").read_text()
    assert "| 300 KiB |" in text
    assert "was right." in text
    assert (tmp_path / "out" / "node-2.png").exists()


@pytest.mark.parametrize(
    ("part", "cases"),
    [("algorithms", (LIBRARY, *NAMES)), ("halves", tuple(KINDS)), ("addresses", tuple(ADDRESSED))],
)
def test_every_algorithm_half_type_and_address_is_measured_and_right(tmp_path, places, part, cases):
    command = [*BENCH, part, *places, "--sizes", "4KiB", "--rounds", "1", "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = read(tmp_path / "out" / "bench.json", Part)
    missing = [what for what in report.parts[part].missing if "not asked for" not in what]
    assert missing == [], done.stderr
    assert report.wrong == []
    (row,) = report.rows
    assert set(row.us) == set(row.wrong) == set(cases)


def test_prices_are_fitted_and_racks_taken_for_nodes(tmp_path):
    out, racks = tmp_path / "found.json", (1, 1, 2)
    cases = (LIBRARY, "ring", "hierarchical", AUTO)
    Task((8, 1 << 16), cases, str(out), 0.0, 1, 1, 1, 0, 0, priced=True, racks=racks).write(tmp_path / "task.json")
    ranks = [sys.executable, "-m", "hpcdist.bench.ranks", str(tmp_path / "task.json")]
    done = subprocess.run(
        [sys.executable, *CLI, "run", "-n", "3", "--", *ranks], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for each in json.loads(out.read_text())["rows"]:
        assert set(each["predicted"]) == set(cases) - {LIBRARY}
        assert all(us > 0 for us in each["predicted"].values())
        assert not any(each["wrong"].values())
        assert each["chosen"]


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_two_commits_are_measured_and_right(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCDIST_COMPILED", "0")  # compiling takes a minute
    root = tmp_path / "repository"
    shutil.copytree(Path(hpcdist.__file__).parent, root / "hpcdist", ignore=shutil.ignore_patterns("__pycache__"))
    git = ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "all"]):
        subprocess.run([*git, *words], check=True)
    what = ["--old", "HEAD", "--sizes", "8,300KiB", "--ranks", "2", "--hosts", "0", "--rounds", "1"]
    command = [sys.executable, *CLI, "bench", "commits", "--out", str(tmp_path), *what]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    report = read(tmp_path / "bench.json", Part)
    assert report.parts["commits"].missing == [], done.stderr
    assert report.wrong == []
    assert [(row.peer, row.nbytes) for row in report.rows] == [(peer, n) for peer in (OLD, NEW) for n in (8, 300 << 10)]
    assert all(row.us[AUTO] > 0 and row.chosen for row in report.rows)


def test_a_size_without_room_leaves_the_others(tmp_path):
    task = Task((8, 1 << 40, 64), (REGISTERED, LIBRARY), str(tmp_path / "found.json"), 0.0, 1, 1, 1, 0, 0)
    task.write(tmp_path / "task.json")
    ranks = [sys.executable, "-m", "hpcdist.bench.ranks", str(tmp_path / "task.json")]
    start = [sys.executable, *CLI, "run", "-n", "2", "--", *ranks]
    done = subprocess.run(start, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert [each["nbytes"] for each in found["rows"]] == [8, 64]
    (missing,) = found["missing"]
    assert missing.startswith("1 TiB left out: ")


def test_what_was_measured_before_an_interrupt_is_kept(tmp_path, places):
    command = [*BENCH, "node", *places, *node("--sizes", "8", "--rounds", "1000")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 100
    while not (tmp_path / "out" / "bench.json").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 1, said
    report = read(tmp_path / "out" / "bench.json", Part)
    assert {row.round for row in report.rows} >= {0}
    assert report.parts["node"].missing[-1] == "interrupted: what comes after was not measured"
    assert "- node: interrupted" in (tmp_path / "out" / "bench.md").read_text()
    deadline = time.monotonic() + 20  # ranks see that their launcher has ended, and follow it
    while left := [path for path in Path("/proc").glob("[0-9]*/cmdline") if _is_ours(path, str(tmp_path))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def _is_ours(path, folder):
    try:
        return folder in path.read_text()
    except OSError:
        return False
