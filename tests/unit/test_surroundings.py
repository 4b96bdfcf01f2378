"""What the shell and the scheduler around a job say of it: its number, its user's folders."""

import os
import subprocess
import sys

import pytest

from hpcdist.checkpoint.fence import job_of


@pytest.mark.parametrize(
    ("environment", "job"),
    [
        ({}, "none"),
        ({"SLURM_JOB_ID": "12"}, "12"),
        ({"SLURM_JOB_ID": "14", "SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "2"}, "12_2"),
    ],
)
def test_the_number_of_a_task_means_no_other_task(environment, job):
    assert job_of(environment) == job


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be a user whom nobody knows")
def test_a_user_without_a_home_is_told_what_to_set(tmp_path):
    program = """
import os
from hpcdist.util.caches import user_cache
os.chdir(os.environ["FOLDER"])
os.setuid(54321)
try:
    user_cache({})
except OSError as error:
    print(error.strerror)
print(user_cache({"XDG_CACHE_HOME": "/scratch"}))
"""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"} | {"FOLDER": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    advice, folder = done.stdout.splitlines()
    assert "set HOME, or XDG_CACHE_HOME" in advice
    assert folder == "/scratch/hpcdist"
    assert list(tmp_path.iterdir()) == []
