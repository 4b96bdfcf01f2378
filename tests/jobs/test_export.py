"""An MPI library that is given our file does what the file says: it adds in the order of the algorithm named there.

Floating-point sums depend on the order of their operands, so the bits of a result tell which algorithm made it.
"""

import json
import os
import re
import subprocess
import sys

import pytest
from mpi4py import MPI

from hpcdist.mpi import launcher

RANKS = 5  # a number on which the algorithms differ
SMALL, LARGE = 160, 40960  # bytes
HPCDIST = [sys.executable, "-m", "hpcdist"]
MAKER = launcher.maker(MPI.Get_library_version())
FORMAT = {"Open MPI": "openmpi-classic", "MPICH": "mpich-json"}.get(MAKER, "")
# The fastest at the small and at the large size, as the file shall say; neither is what the library does by itself.
CHOSEN = {"Open MPI": ("basic_linear", "ring"), "MPICH": ("recursive_multiplying", "tree")}.get(MAKER, ("", ""))
NUMBER = {"basic_linear": "1", "ring": "4"}  # of Open MPI

PROGRAM = f"""
import zlib
import numpy as np
from mpi4py import MPI
world = MPI.COMM_WORLD
def bits(comm, nbytes):
    numbers = np.random.default_rng(comm.rank).standard_normal(nbytes // 8)
    comm.Allreduce(MPI.IN_PLACE, numbers)
    world.Bcast(np.zeros(3))  # other collectives have to work, too
    return zlib.crc32(numbers.tobytes())
part = world.Split(world.rank // 3)  # 3 ranks, of which the file says nothing
found = [bits(comm, nbytes) for comm in (world, part) for nbytes in ({SMALL}, {LARGE})]
if world.rank == 0:
    print("BITS", *found)
"""

pytestmark = [
    pytest.mark.skipif(not FORMAT, reason=f"no file can be written for the MPI in use, {MAKER}"),
    pytest.mark.limit(600),
    pytest.mark.long,
]


def run(*command, ranks=RANKS, **variables):
    done = subprocess.run(
        [*HPCDIST, "run", "-n", str(ranks), "--", *command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bits(**variables):
    """What each size on 5 and on 3 ranks comes to, as {(ranks, nbytes): checksum}."""
    line = re.search(r"BITS(.*)", run(sys.executable, "-c", PROGRAM, **variables))
    cases = [(ranks, nbytes) for ranks in (RANKS, 3) for nbytes in (SMALL, LARGE)]
    return dict(zip(cases, line[1].split(), strict=True))


def forced(algorithm):
    """The variables with which the library itself is made to use one algorithm."""
    if MAKER == "Open MPI":
        number = NUMBER[algorithm]
        return {"OMPI_MCA_coll_tuned_use_dynamic_rules": "1", "OMPI_MCA_coll_tuned_allreduce_algorithm": number}
    return {"MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE": "0", "MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": algorithm}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """A real sweep of two sizes, with times put into it that make the choice known."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.json"
    run(
        *HPCDIST, "sweep", "--library-algorithms", "--algorithms", "ring", "--dtype", "float64", "--json", str(path),
        "--min-bytes", str(SMALL), "--max-bytes", str(LARGE), "--step-factor", str(LARGE // SMALL),
        "--samples", "1", "--iterations", "1", "--warmup", "1",
    )  # fmt: skip
    document = json.loads(path.read_text())
    best = dict(zip((SMALL, LARGE), CHOSEN, strict=True))
    for row in document["results"]:
        row["time_us_p50"] = 1.0 if row["algorithm"] == f"library:{best[row['nbytes']]}" else 100.0
    path.write_text(json.dumps(document))
    return path


@pytest.fixture(scope="module")
def variables(sweep):
    """What the command says is to be set."""
    rules = sweep.with_name("rules")
    done = subprocess.run(
        [*HPCDIST, "export", str(sweep), "--format", FORMAT, "-o", str(rules)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(re.findall(r"^export (\w+)=(.*)$", done.stdout, re.MULTILINE))


def test_the_sweep_checked_each_algorithm_of_the_library(sweep):
    rows = json.loads(sweep.read_text())["results"]
    names = {row["algorithm"] for row in rows}
    assert {f"library:{name}" for name in CHOSEN} | {"MPI_Allreduce", "ring"} <= names
    assert {row["wrong"] for row in rows} == {0}


def test_the_library_takes_what_the_file_says_for_each_size_and_leaves_other_communicators_alone(variables):
    alone, by_file = bits(), bits(**variables)
    small, large = (bits(**forced(algorithm)) for algorithm in CHOSEN)
    assert len({found[RANKS, SMALL] for found in (alone, small, large)}) == 3, "the bits must tell them apart"
    assert len({found[RANKS, LARGE] for found in (alone, small, large)}) == 3, "the bits must tell them apart"
    assert by_file[RANKS, SMALL] == small[RANKS, SMALL]
    assert by_file[RANKS, LARGE] == large[RANKS, LARGE]
    for nbytes in (SMALL, LARGE):
        assert by_file[3, nbytes] == alone[3, nbytes]
    there = small[3, SMALL], large[3, LARGE]
    assert there != (alone[3, SMALL], alone[3, LARGE]), "the bits must tell whether the file was used there"


def test_a_sweep_under_a_tuning_file_is_refused(variables):
    done = subprocess.run(
        [*HPCDIST, "run", "-n", "2", "--", *HPCDIST, "sweep", "--library-algorithms", "--max-bytes", "8"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    file = next(value for name, value in variables.items() if name.lower().endswith(("filename", "json_file")))
    assert f"the tuning file {file} is in force" in done.stderr
