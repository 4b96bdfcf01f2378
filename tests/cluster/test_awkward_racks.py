"""Awkward numbers of ranks on real virtual hosts in racks: what is slow to reach is a rack, not a host."""

import sys

import pytest
from virtual_hosts import Cluster, missing

from hpcdist.bench.awkward.record import Run

cluster = Cluster("awkward")
MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(180),
]


@pytest.fixture
def racks():
    """Five hosts in two racks, of three and of two."""
    cluster("up", "--hosts", "5", "--rate", "100mbit", "--racks", "2", "--rack-rate", "50mbit")
    yield
    cluster("down")


def test_racks_are_the_nodes_of_hierarchical_and_of_the_price_model(racks, tmp_path):
    path = tmp_path / "racks.json"
    program = [sys.executable, "-m", "hpcdist.bench.awkward", "--sizes", "64KiB", "--seconds", "0"]
    done = cluster("run", "-n", "5", "--", *program, "--racks", "2", "--out", str(path))
    run = Run.read(path)
    assert run.topology == [0, 0, 0, 1, 1]
    assert run.place == "5 ranks on 5 hosts in 2 racks"
    assert run.model["node_beta"] is not None
    assert {record.case: record.wrong for record in run.results}["hierarchical"] == 0
    assert "5 ranks on 5 hosts in 2 racks" in done.stdout
    refused = cluster("run", "-n", "3", "--", *program, "--racks", "4", check=False)
    assert refused.returncode == 1
    assert "3 ranks cannot be spread over 4 racks" in refused.stderr
