"""Processes that a wrong launcher left each in a world of its own are told apart from a single process."""

import pytest

from hpcdist.errors import LaunchError
from hpcdist.mpi.world import ALLOW, check_launcher


@pytest.mark.parametrize(
    ("environment", "who", "advice"),
    [
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "Open MPI's mpirun", "the mpirun (or mpiexec) of the MPI in use"),
        ({"PMI_SIZE": "4"}, "a PMI launcher", "with srun --mpi=pmix if that MPI is Open MPI"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun", "use srun --mpi=pmix for Open MPI"),
        ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS": "4"}, "srun", "use srun --mpi=pmix for Open MPI"),
    ],
)
def test_a_world_of_one_where_four_were_started_is_an_error_with_the_right_flag(environment, who, advice):
    with pytest.raises(LaunchError) as raised:
        check_launcher(1, environment)
    text = str(raised.value)
    assert text.startswith(f"{who}")
    assert "started 4 processes" in text
    assert advice in text
    assert f"set {ALLOW}=1" in text


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_NTASKS": "4"},  # a batch script, or an allocation, in which one process was started
        {"OMPI_COMM_WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "4"},  # mpirun -n 1 inside of a larger step
        {"OMPI_COMM_WORLD_SIZE": ""},
        {"OMPI_COMM_WORLD_SIZE": "4", ALLOW: "1"},
    ],
)
def test_a_single_process_is_left_alone(environment):
    check_launcher(1, environment)


def test_a_world_of_several_is_what_the_launcher_says_it_is():
    check_launcher(4, {"OMPI_COMM_WORLD_SIZE": "4"})
