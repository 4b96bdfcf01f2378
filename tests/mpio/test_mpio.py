"""`make test-mpio`: one file written by all ranks together holds what the other layouts hold, and failures end.

HPCDIST_SERIAL_PYTHON: a Python whose h5py has no MPI, which must be able to read the files.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import h5py
import numpy as np
import pytest
from state import state

from hpcdist.checkpoint import collective, committed, look, newest, read
from hpcdist.checkpoint.layout import STATE

HERE = Path(__file__).parent
HPCDIST = [sys.executable, "-m", "hpcdist"]
SERIAL = os.environ.get("HPCDIST_SERIAL_PYTHON")

pytestmark = pytest.mark.skipif(
    not SERIAL and not h5py.get_config().mpi, reason="this h5py has no MPI: make test-mpio has one that has"
)


def run(*command, **variables):
    """Run a command beside the programs of this folder; (exit code, output)."""
    done = subprocess.run(
        command,
        cwd=HERE,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=100,
        check=False,
    )
    return done.returncode, done.stdout


def job(ranks, *command, **variables):
    return run(*HPCDIST, "run", "-n", str(ranks), "--", "python", *map(str, command), **variables)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoint that so many ranks saved in a layout."""

    @cache
    def save(ranks, layout):
        directory = tmp_path_factory.mktemp(f"{layout}-{ranks}")
        code, output = job(ranks, "save.py", directory, 7, layout)
        assert code == 0, output
        return directory / "step-00000007"

    return save


def assert_same(found):
    assert list(found) == list(state())
    for name, values in state().items():
        got = np.asarray(found[name])
        assert (got.dtype, got.shape, got.tobytes()) == (values.dtype, values.shape, values.tobytes()), name


def in_file(path):
    """What HDF5 itself finds in state.h5."""
    with h5py.File(path / STATE, "r", locking=False) as file:
        return {name: file[name][()] for name in state()}


@pytest.mark.parametrize("ranks", [1, 3, 4])
def test_every_layout_holds_the_same_state(saved, ranks):
    together = saved(ranks, "collective")
    assert set(os.listdir(together)) == {STATE, "manifest.json"}
    assert_same(read(look(together)))
    assert_same(in_file(together))
    for other in (saved(ranks, "shards"), saved(1, "single")):
        assert_same(read(look(other)))
        assert_same(in_file(other))
        code, output = run(*HPCDIST, "checkpoint", "compare", str(together), str(other))
        assert code == 0, output


def test_every_rank_writes_pieces_of_its_own(saved):
    manifest = json.loads((saved(4, "collective") / "manifest.json").read_text())["manifest"]
    pieces = manifest["arrays"]["weights"]["pieces"]
    assert {0, 250, 500, 750} < {piece["start"] for piece in pieces}
    assert all(piece["at"] == piece["start"] for piece in pieces)


RESTORE = """
import sys
from pathlib import Path
import numpy as np
from state import state
from hpcdist.checkpoint import look, restore
from hpcdist.mpi.world import world
into = {name: np.full(values.shape, 7, values.dtype) for name, values in state().items()}
restore(world(), look(Path(sys.argv[1])), into)
for name, values in state().items():
    assert into[name].tobytes() == values.tobytes(), name
"""


@pytest.mark.parametrize(("before", "after"), [(3, 4), (4, 1), (1, 3)])
def test_a_state_is_restored_on_another_number_of_ranks(saved, before, after):
    code, output = job(after, "-c", RESTORE, saved(before, "collective"))
    assert code == 0, output


PEER = """
import sys
from pathlib import Path
from state import state
from hpcdist.mpi.world import world
from hpcdist.checkpoint import collective, layout
comm = world()
layout.PIECE, collective.ALIGNMENT = 1 << 16, 1 << 12
share = collective.shares_of(state(), comm.size)[comm.rank]
hints = {"striping_factor": "2", "striping_unit": "1048576", "nobody_knows_this": "1"}
part = collective.write_collective(Path(sys.argv[1]), comm, state(), share, hints)
assert set(part.files) == ({"state.h5"} if comm.rank == 0 else set())
print("wrote", sum(len(pieces) for pieces in part.pieces.values()))
"""


@pytest.mark.parametrize("io", ["ompio", "romio341"])
def test_hints_and_both_of_open_mpis_file_layers(tmp_path, io):
    code, output = job(4, "-c", PEER, tmp_path / STATE, OMPI_MCA_io=io)
    assert code == 0, output
    assert output.count("wrote") == 4
    assert_same(in_file(tmp_path))


def test_arrays_are_cut_one_by_one_so_that_all_ranks_write_at_once():
    arrays = {"large": np.zeros((1024, 1024)), "small": np.zeros(10), "none": np.zeros(0)}
    found = collective.shares_of(arrays, 4)
    assert [share["large"] for share in found] == [(0, 256), (256, 512), (512, 768), (768, 1024)]
    assert [share.get("small") for share in found] == [(0, 10), None, None, None]
    assert [share.get("none") for share in found] == [(0, 0), None, None, None]


READ = """
import sys
from pathlib import Path
sys.path.insert(0, ".")
from test_mpio import assert_same, h5py, in_file, look, read
assert not h5py.get_config().mpi
path = Path(sys.argv[1])
assert_same(read(look(path)))
assert_same(in_file(path))
"""


@pytest.mark.skipif(not SERIAL, reason="HPCDIST_SERIAL_PYTHON is not set")
def test_an_h5py_without_mpi_reads_it(saved):
    code, output = run(SERIAL, "-c", READ, str(saved(4, "collective")))
    assert code == 0, output


@pytest.mark.skipif(not shutil.which("h5dump"), reason="no h5dump here")
def test_h5dump_reads_it(saved, tmp_path):
    file = saved(3, "collective") / STATE
    code, output = run("h5dump", "-d", "/weights", "-b", "LE", "-o", str(tmp_path / "raw"), str(file))
    assert code == 0, output
    assert (tmp_path / "raw").read_bytes() == state()["weights"].tobytes()


# --- failures ---

NO_ROOM = """
import resource, sys
from save import save
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    save(*sys.argv[1:])
except RuntimeError as error:
    print("raised", error, flush=True)
"""


def test_without_room_for_the_file_all_ranks_raise_and_nothing_is_left(tmp_path):
    assert job(3, "save.py", tmp_path, 1, "collective")[0] == 0
    code, output = job(3, "-c", NO_ROOM, tmp_path, 2, "collective")
    assert code == 0, output
    assert output.count("raised") == 3
    assert output.count("there is no room for") == 3
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000001"]


DURABLE = """
import sys
from save import save
from hpcdist.checkpoint import collective
fsync = collective.fsync
def noted(path):
    fsync(path)
    print("durable", path, flush=True)
collective.fsync = noted
save(*sys.argv[1:])
"""


def test_every_rank_makes_durable_what_mpi_may_have_given_it_to_write(tmp_path):
    code, output = job(3, "-c", DURABLE, tmp_path, 2, "collective")
    assert code == 0, output
    assert len(re.findall(rf"^durable \S*/{STATE}$", output, re.MULTILINE)) == 3


# What a rank meets in its second transfer, while the others are in theirs: a limit stands for a disk that fails.
FAILING = """
import os, resource, signal, sys
from save import save
from hpcdist.checkpoint import collective
whole, count = collective._write, 0
def write(*arguments):
    global count
    count += 1
    if count == 2:
        {fault}
    whole(*arguments)
collective._write = write
save(*sys.argv[1:])
"""
NO_GROWTH = "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))"
ENDS = "ends the job, as others wait for it"
# Fault, variables, what the job then says. Open MPI's own layer loses the error, so that it is found by reading back.
FAULTS = {
    "no growth, ompio": (NO_GROWTH, {"OMPI_MCA_io": "ompio"}, "does not read back as it was written"),
    "no growth, romio": (NO_GROWTH, {"OMPI_MCA_io": "romio341"}, ENDS),
    "an error": ("collective.MPI.COMM_WORLD.rank == 1 and 1 / 0", {}, ENDS),
    "a kill": ("collective.MPI.COMM_WORLD.rank == 2 and os.kill(os.getpid(), signal.SIGKILL)", {}, ""),
}


@pytest.mark.parametrize(("fault", "variables", "text"), FAULTS.values(), ids=FAULTS)
def test_a_transfer_that_fails_ends_the_job_and_earlier_checkpoints_are_as_they_were(tmp_path, fault, variables, text):
    assert job(1, "save.py", tmp_path, 1, "collective")[0] == 0
    code, output = job(3, "-c", FAILING.format(fault=fault), tmp_path, 2, "collective", **variables)
    assert code != 0
    assert text in output
    assert [path.name for path in committed(tmp_path)] == ["step-00000001"]
    assert job(3, "save.py", tmp_path, 3, "collective")[0] == 0
    checkpoint, damaged = newest(tmp_path)
    assert (checkpoint.step, damaged) == (3, [])
    assert_same(read(checkpoint))


LISTED = """
import os, sys
from hpcdist.errors import AgreedError
try:
    save(*sys.argv[1:])
except AgreedError as error:
    print("raised", error)
print("left", *sorted(os.listdir(sys.argv[1])))
"""


def test_a_rank_alone_raises_and_leaves_nothing(tmp_path):
    assert job(1, "save.py", tmp_path, 1, "collective")[0] == 0
    before = sorted(os.listdir(tmp_path))
    failing = FAILING.format(fault="1 / 0").replace("save(*sys.argv[1:])\n", LISTED)
    code, output = job(1, "-c", failing, tmp_path, 2, "collective")
    assert code == 0, output
    assert "cannot be written: division by zero; earlier checkpoints are as they were" in output
    assert f"left {' '.join(before)}" in output


# --- two MPI libraries ---

LOADED = "; from hpcdist.mpi.library import libraries; print(len(libraries()))"
BARE = {"LD_LIBRARY_PATH": ""}  # as under srun: mpirun would have said where the library is


@pytest.mark.parametrize("module", ["train.command, hpcdist.train.loop", "checkpoint.store", "checkpoint.collective"])
def test_mpi_is_loaded_before_hdf5_by_what_needs_both(module):
    code, output = run(sys.executable, "-c", f"import hpcdist.{module}; import h5py{LOADED}", **BARE)
    assert (code, output.strip()) == (0, "1")


def test_it_is_available_here_unless_hdf5_brought_an_mpi_library_of_its_own():
    program = "{}\nfrom hpcdist.checkpoint.collective import unavailable\nprint(unavailable())"
    assert run(sys.executable, "-c", program.format("from mpi4py import MPI"), **BARE) == (0, "None\n")
    code, output = run(sys.executable, "-c", program.format("import h5py"), **BARE)
    assert code == 0, output
    assert "two MPI libraries are loaded" in output
    assert "Import mpi4py.MPI before h5py" in output
