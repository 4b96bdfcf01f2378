"""Ranks in a control group that limits their memory, as a batch system makes one: refused, and not killed."""

import os
from pathlib import Path

import pytest
from test_no_hang import Job

GROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.limit_in_bytes", "memory.max")  # of versions 1 and 2
MIB = 1 << 20


@pytest.fixture
def group():
    """A control group with 256 MiB."""
    for top in (GROUPS / "memory", GROUPS):
        folder = top / f"hpcdist-test-{os.getpid()}"
        try:
            folder.mkdir()
        except OSError:
            continue
        limits = [folder / name for name in LIMITS if (folder / name).exists()]
        if limits:
            limits[0].write_text(str(256 * MIB))
            yield folder
        folder.rmdir()
        if limits:
            return
    pytest.skip("wants the right to make a control group that limits memory: root, outside most containers")


def test_an_array_beyond_the_jobs_limit_is_refused_on_all_ranks_and_the_job_goes_on(tmp_path, group):
    program = f"""
open("{group}/cgroup.procs", "w").write(str(os.getpid()))
comm.Barrier()
try:
    hpcdist.empty(50 << 20, np.float32, comm)
except hpcdist.AgreedError as error:
    print("refused:", error, flush=True)
x = hpcdist.empty(4 << 20, np.float32, comm)
x[:] = 1
print("sixteen", x.nbytes >> 20, flush=True)
"""
    with Job(tmp_path, 2, program) as job:
        assert job.end() == 0, job.output
    assert job.output.count("refused: ") == 2
    assert "together and with what MPI adds 420" in job.output
    assert job.output.count("sixteen 16") == 2
