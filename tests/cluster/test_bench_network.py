"""Ours beside Open MPI on real virtual hosts; wants root, or user namespaces, and iproute2."""

import os
import subprocess
import sys

import pytest
from mpi4py import MPI
from virtual_hosts import missing

from hpcdist.bench.peers import OPEN_MPI
from hpcdist.bench.record import Part
from hpcdist.bench.saved import read
from hpcdist.bench.task import AUTO, LIBRARY, RAW
from hpcdist.cluster import state
from hpcdist.mpi.launcher import maker

NAME = f"bench-{os.getpid()}"
MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.skipif(maker(MPI.Get_library_version()) != OPEN_MPI, reason="hosts are entered by Open MPI's mpirun"),
    pytest.mark.limit(300),
]


def test_shares_prices_and_tables_are_measured_and_the_cluster_is_ended(tmp_path):
    (tmp_path / "openmpi").symlink_to(sys.prefix)
    places = ["--environments", str(tmp_path), "--out", str(tmp_path / "out"), "--peers", OPEN_MPI]
    what = ["--ranks", "2", "--rates", "500mbit", "--sizes", "8,256KiB", "--tune-bytes", "128", "--name", NAME]
    command = [sys.executable, "-m", "hpcdist", "bench", "network", *places, *what, "--rounds", "1", "--seconds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = read(tmp_path / "out" / "bench.json", Part)
    assert [why for why in report.parts["network, 500mbit, 2 ranks"].missing if "not asked for" not in why] == [], (
        done.stderr
    )
    assert report.wrong == []
    assert [(row.place, row.ranks, row.nbytes) for row in report.rows] == [("500mbit", 2, 8), ("500mbit", 2, 256 << 10)]
    for row in report.rows:
        assert set(row.us) == {RAW, LIBRARY, AUTO}
        assert row.chosen
    large = report.rows[-1]
    assert large.us[RAW] > 0.5 * (256 << 10) * 8 / 500  # bits over Mbit/s: not at once, from a bucket that was full
    judgement = report.parts["network, 500mbit, 2 ranks"].judgement
    assert judgement.model_error >= 0
    assert 0 <= judgement.near <= 1
    assert "hosts behind links of 500mbit" in (tmp_path / "out" / "bench.md").read_text()
    assert (tmp_path / "out" / "network-500mbit-2.png").exists()
    assert state.find(NAME) is None
