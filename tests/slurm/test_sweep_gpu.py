"""The job script for device buffers, submitted to a real Slurm; GPUs are none, and the device is simulated."""

import json
import os
from pathlib import Path

import pytest
from virtual_slurm import eventually

TESTS = Path(__file__).parents[1]
SCRIPT = TESTS.parent / "jobscripts" / "sweep-gpu.sbatch"
DONE = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
HERE = ["--nodes=2", "--gpus-per-node=2", "--ntasks-per-node=2", "--cpus-per-task=1"]
SMALL = ["--algorithms", "ring", "--min-bytes", "4KiB", "--max-bytes", "16KiB", "--time-limit", "0.01"]

# What Python runs at its start, in every process of the job.
SIMULATED = """
from hpcdist.device import kinds
def simulated():
    import guarded
    return guarded.install()
kinds.KINDS["cuda"] = simulated
"""

pytestmark = pytest.mark.limit(400)


@pytest.mark.parametrize("launch", ["srun -K --mpi=pmix --cpu-bind=cores", "mpirun"])
def test_device_buffers_are_swept_over_every_path_that_works_and_merged_into_one_report(slurm, launch):
    (slurm.folder / "sitecustomize.py").write_text(SIMULATED)
    search = os.pathsep.join(map(str, (slurm.folder, TESTS)))
    env = {"LAUNCH": launch, "PYTHONPATH": search, "NICS": "card0 card1"}
    job = slurm.submit(SCRIPT, *HERE, arguments=SMALL, env=env)
    eventually(lambda: all(task["JobState"] in DONE for task in slurm.tasks(job)), 300)
    assert {task["JobState"] for task in slurm.tasks(job)} == {"COMPLETED"}, slurm.story(job)
    out = slurm.folder / f"sweep-gpu-{job}"
    rows = json.loads((out / "sweep.json").read_text())["results"]
    assert not any(row["wrong"] for row in rows)
    ours = {(row["ranks"], row["nodes"], row["path"]) for row in rows if row["algorithm"] == "ring"}
    assert ours == {(2, 1, "staged"), (2, 1, "peer"), (4, 2, "staged")}
    rules = json.loads((out / "selection.json").read_text())["rules"]
    assert {(rule["nodes"], rule["path"]) for rule in rules} == {(1, "staged"), (1, "peer"), (2, "staged")}
    assert "path peer is left out: " in (slurm.folder / f"sweep-gpu-{job}_2.out").read_text()
