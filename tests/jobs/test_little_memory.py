"""Jobs whose shared memory is a small file system: what does not fit is refused, and nobody waits for ever."""

import json
import os
import re
import shutil
import subprocess

import pytest
from test_no_hang import Job

from hpcdist.transport.shared_memory import BACKING

pytestmark = pytest.mark.long


@pytest.fixture
def little(tmp_path):
    """Makes a memory file system of so many KiB."""
    folder = tmp_path / "memory"
    folder.mkdir()

    def make(kib):
        if os.geteuid() != 0 or not shutil.which("mount"):
            pytest.skip("only root can make a small memory file system")
        command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "none", str(folder)]
        mount = subprocess.run(command, capture_output=True)
        if mount.returncode:
            pytest.skip(f"cannot mount here: {mount.stderr.decode()}")
        return str(folder)

    yield make
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


ALL_SIZES = """
import json
from hpcdist.errors import AgreedError
said = {}
for pages in range(1, 20):
    try:
        array = hpcdist.empty(pages * 512, "float64", comm)
        array[:] = 1
        said[pages] = "fits"
    except AgreedError as error:
        said[pages] = str(error)
    array = None
if comm.rank == 0:
    json.dump(said, open("said.json", "w"))
"""


def test_arrays_of_all_sizes_fit_or_are_refused(tmp_path, little):
    """Among them those for which MPI has no room with what it adds."""
    with Job(tmp_path, 2, ALL_SIZES, **{BACKING: little(132)}) as job:
        assert job.end() == 0
    said = list(json.loads((tmp_path / "said.json").read_text()).values())
    assert said[:12] == ["fits"] * 12
    for refusal in said[said.count("fits") :]:
        assert re.search("KiB of shared memory, but .* has 132 KiB free", refusal)
    assert said[-1] != "fits"


TRAINING = """
from rich.console import Console
from hpcdist.train.loop import train
settings = {"model": "mlp", "epochs": 1, "batch": 100, "warmup": 5, "out": "run"}
print(train(comm, settings, Console()))
"""


@pytest.mark.parametrize("kib", [84, 128], ids=["not for the gradients", "not for the flags"])
def test_training_goes_on_without_shared_memory_and_says_so(tmp_path, little, kib):
    pytest.importorskip("sklearn", reason="trains on the digits")
    with Job(tmp_path, 2, TRAINING, **{BACKING: little(kib), "XDG_CACHE_HOME": str(tmp_path)}) as job:
        assert job.end() == 0
    what = {84: r"an array of \S+ KiB", 128: "a page of 512 flags"}[kib]
    assert re.search(rf"^note: gradients are not added up in shared memory: .*{what} takes", job.output, re.MULTILINE)
    assert "Outcome(completed=True" in job.output
