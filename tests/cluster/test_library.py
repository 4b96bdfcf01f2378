"""The MPI library's own algorithms on several nodes, where Open MPI would leave them to another of its components."""

import json
import re
import subprocess
import sys

import pytest
from virtual_hosts import HPCDIST, Cluster, missing

cluster = Cluster("library")
MISSING = missing("--net")
pytestmark = [
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
    pytest.mark.limit(300),
]
RANKS, NBYTES = 4, 4096
BITS = f"""
import zlib
import numpy as np
from mpi4py import MPI
numbers = np.random.default_rng(MPI.COMM_WORLD.rank).standard_normal({NBYTES} // 8)
MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, numbers)
if MPI.COMM_WORLD.rank == 0:
    print("BITS", zlib.crc32(numbers.tobytes()))
"""


@pytest.fixture(scope="module", autouse=True)
def hosts():
    """Two virtual hosts."""
    cluster("up", "--hosts", "2", "--rate", "1gbit")
    yield
    cluster("down")


def bits(**variables):
    """What tells in which order the library adds."""
    done = cluster("run", "-n", RANKS, sys.executable, "-c", BITS, **variables)
    return re.search(r"BITS (\d+)", done.stdout)[1]


def test_each_algorithm_is_really_run_and_a_file_of_ours_is_obeyed(tmp_path):
    sweep = tmp_path / "sweep.json"
    # The sweep itself refuses a library that adds in the same order whatever is chosen.
    cluster(
        "run", "-n", RANKS, HPCDIST, "sweep", "--library-algorithms", "--algorithms", "ring", "--min-bytes", NBYTES,
        "--max-bytes", NBYTES, "--samples", 1, "--iterations", 1, "--warmup", 1, "--json", sweep,
    )  # fmt: skip
    document = json.loads(sweep.read_text())
    assert {row["nodes"] for row in document["results"]} == {2}
    assert {row["wrong"] for row in document["results"]} == {0}
    for row in document["results"]:
        row["time_us_p50"] = 1.0 if row["algorithm"] == "library:ring" else 100.0
    sweep.write_text(json.dumps(document))
    command = [HPCDIST, "export", sweep, "--format", "openmpi-classic", "-o", tmp_path / "rules"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    variables = dict(re.findall(r"^export (\w+)=(.*)$", said, re.MULTILINE))
    lifted = {name: variables[name] for name in variables if not name.endswith("filename")}
    ring = bits(**lifted, OMPI_MCA_coll_tuned_allreduce_algorithm="4")
    assert bits(**variables) == ring
    assert bits() != ring
