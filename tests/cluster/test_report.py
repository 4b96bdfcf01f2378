"""Reports on real virtual hosts: needs root, or a kernel that lets users have namespaces, and iproute2."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from virtual_hosts import missing

from hpcdist.cluster import state

HPCDIST = str(Path(sys.executable).with_name("hpcdist"))
NAME = f"report-{os.getpid()}"
CASES = {"raw TCP", "MPI_Allreduce", "ring", "ring, whole messages", "tree"}
TINY = ["--sizes", "64,64KiB", "--algorithms", "ring,tree", "--rounds", "2", "--seconds", "5"]


MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(180),
]


def cluster(verb, *arguments):
    """Run `hpcdist cluster ...` on our cluster; a report on clusters of that name."""
    command = [HPCDIST, "cluster", verb, "--name", NAME, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No report leaves its cluster, nor a process that knows of it."""
    yield
    left, folder = state.find(NAME), state.folder(NAME)
    cluster("down")
    assert left is None
    assert not folder.exists()
    assert eventually(lambda: not _of_ours()), _of_ours()


def _of_ours():
    return [p for p in psutil.process_iter(["cmdline"]) if any(NAME in word for word in p.info["cmdline"] or [])]


def eventually(condition, seconds=60):
    give_up = time.monotonic() + seconds
    while not condition() and time.monotonic() < give_up:
        time.sleep(0.05)
    return condition()


def results(folder):
    """(ranks, size, case) of all results in a report's JSON."""
    made = json.loads((folder / "network.json").read_text())
    return [(each["ranks"], each["nbytes"], each["case"]) for each in made["results"]]


def missing(folder):
    return json.loads((folder / "network.json").read_text())["missing"]


def test_a_report_is_complete(tmp_path):
    out = tmp_path / "new" / "network"
    done = cluster("report", "--out", out, "--rates", "500mbit,2gbit", "--ranks", "2,3", *TINY)
    assert done.returncode == 0, done.stdout + done.stderr
    made = json.loads((out / "network.json").read_text())
    assert made["missing"] == []
    everything = {
        (rate, ranks, nbytes, case)
        for rate in (500_000_000, 2_000_000_000)
        for ranks in (2, 3)
        for nbytes in (64, 65536)
        for case in CASES
    }
    assert len(made["results"]) == len(everything)
    assert {(r["rate"], r["ranks"], r["nbytes"], r["case"]) for r in made["results"]} == everything
    for each in made["results"]:
        assert each["samples"] == 2
        assert 0 < each["time_us_p10"] <= each["time_us_p50"] <= each["time_us_p90"]
        assert each["wrong"] == (None if each["case"] == "raw TCP" else 0)
        assert each["segment_nbytes"] == {"ring": 61440, "tree": 61440, "ring, whole messages": 0}.get(each["case"])
    assert len(list(csv.DictReader((out / "network.csv").read_text().splitlines()))) == len(everything)
    text = (out / "network.txt").read_text()
    assert "2 Gbit/s, 3 ranks: share of the link" in text
    assert "Open MPI" in text
    assert "none was wrong" in text
    for rate in ("500mbit", "2gbit"):
        assert (out / f"network-{rate}.png").stat().st_size > 10_000
        assert "raw TCP" in (out / f"network-{rate}.svg").read_text()


def test_links_are_limited_from_the_first_byte(tmp_path):
    """256 KiB would pass a link that was idle at once: without emptying its bucket the share was over 10 here."""
    small = ["--sizes", "256KiB", "--algorithms", "ring", "--rounds", "3"]
    done = cluster("report", "--out", tmp_path, "--rates", "20mbit", "--ranks", "2", *small)
    assert done.returncode == 0, done.stdout + done.stderr
    shares = {r["case"]: r["share"] for r in json.loads((tmp_path / "network.json").read_text())["results"]}
    assert max(shares.values()) < 2, shares


def test_a_cluster_that_is_up_is_not_touched(tmp_path):
    assert cluster("up", "--hosts", "2", "--rate", "100mbit").returncode == 0
    before = state.find(NAME)
    done = cluster("report", "--out", tmp_path / "out", "--rates", "500mbit", "--ranks", "2", *TINY)
    after = state.find(NAME)
    cluster("down")
    assert done.returncode == 1
    assert f"hpcdist cluster down --name {NAME}" in done.stderr
    assert after == before
    assert not (tmp_path / "out").exists()


def started(out, *arguments):
    """A report that goes on for long with its second job, once the first one's results are written."""
    command = [HPCDIST, "cluster", "report", "--name", NAME, "--out", str(out), "--rates", "500mbit", *arguments]
    long = ["--sizes", "64,16KiB", "--algorithms", "ring", "--rounds", "100000", "--seconds", "10"]
    job = subprocess.Popen(
        [*command, *long], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert eventually(lambda: (out / "network.json").exists()), "no results"
    assert eventually(lambda: len(_ranks(3)) == 3), "no second job"
    return job


def _ranks(number):
    """The processes of the job of so many ranks, but for those that start them."""
    running = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    ours = [words for words in running if words[1:3] == ["-m", "hpcdist.bench.links"]]
    return [words for words in ours if words[-1].endswith(f"-{number}.json")]


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGINT, False), (signal.SIGTERM, False)],
    ids=["Ctrl-C", "SIGINT", "SIGTERM"],
)
def test_a_report_that_is_interrupted_keeps_what_was_measured(tmp_path, number, to_all):
    job = started(tmp_path, "--ranks", "2,3,4")
    if to_all:  # as a terminal does
        os.killpg(job.pid, number)
    else:
        job.send_signal(number)
    output = job.communicate(timeout=60)[0]
    assert job.returncode == 1, output
    assert {ranks for ranks, _, _ in results(tmp_path)} >= {2}
    assert "500 Mbit/s, 3 ranks: " in missing(tmp_path)[0]
    assert missing(tmp_path)[0].endswith(": interrupted")
    assert missing(tmp_path)[1] == "500 Mbit/s, 4 ranks: not begun when the report was interrupted"
    assert "MISSING: 500 Mbit/s, 4 ranks" in (tmp_path / "network.txt").read_text()
    assert (tmp_path / "network-500mbit.png").exists()


def test_a_report_whose_host_dies_says_what_is_missing(tmp_path):
    job = started(tmp_path, "--ranks", "2,3,4")
    assert cluster("kill", "n3").returncode == 0
    output = job.communicate(timeout=90)[0]
    assert job.returncode == 1, output
    assert {ranks for ranks, _, _ in results(tmp_path)} >= {2}
    assert 4 not in {ranks for ranks, _, _ in results(tmp_path)}
    three, four = missing(tmp_path)
    assert three.startswith("500 Mbit/s, 3 ranks: ")
    assert "the job exited with" in three
    assert four == "500 Mbit/s, 4 ranks: 64 B, 16 KiB: the job exited with 1"
