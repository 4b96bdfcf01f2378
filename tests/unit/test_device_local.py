"""Which GPU a rank takes."""

import subprocess
import sys

import cupy_on_host
import pytest

from hpcdist.device import local
from hpcdist.device.local import Booking, choose, crowded, double_booked, local_rank, missing, named


@pytest.fixture
def cupy(monkeypatch):
    cupy = cupy_on_host.cupy()
    monkeypatch.setattr(local, "cupy_with_gpu", lambda: cupy)
    monkeypatch.setattr(local, "accelerator", lambda number: f"GPU {number}")
    monkeypatch.setattr(cupy_on_host.Device, "stack", [0])
    cupy.cuda.runtime.count = 4
    return cupy


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, 0),
        ({"SLURM_LOCALID": "3"}, 3),
        ({"SLURM_LOCALID": "0", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),  # mpirun in a job script
        ({"SLURM_LOCALID": "0", "MPI_LOCALRANKID": "1"}, 1),
        ({"SLURM_LOCALID": "0", "PALS_LOCAL_RANKID": "1"}, 1),
        ({"PMI_LOCAL_RANK": "5"}, 5),
    ],
)
def test_the_innermost_launcher_says_which_rank_of_the_node_this_is(environment, rank):
    assert local_rank(environment) == rank


@pytest.mark.parametrize(
    ("rank", "count", "visible", "gpu"),
    [
        (0, 4, None, 0),
        (3, 4, None, 3),
        (3, 4, "0,1,2,3", 3),
        (3, 4, "GPU-8932f937,GPU-5a2c,GPU-11,GPU-12", 3),
        (3, 1, "2", 0),  # the launcher has chosen
        (5, 4, "0,1,2,3", 1),  # more ranks than devices
    ],
)
def test_a_rank_takes_the_gpu_with_its_number_of_those_that_it_may_use(cupy, rank, count, visible, gpu):
    cupy.cuda.runtime.count = count
    environment = {"SLURM_LOCALID": str(rank)} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    assert choose(environment) == f"GPU {gpu}"
    assert cupy.cuda.runtime.getDevice() == gpu
    assert choose(environment) == f"GPU {gpu}"


def test_of_instances_of_mig_each_rank_sees_its_own():
    environment = {"CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b,MIG-c"}
    local.keep_own_instance(environment, 4)
    assert environment == {"CUDA_VISIBLE_DEVICES": "MIG-b"}
    for others in ({}, {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "MIG-a"}):
        before = dict(others)
        local.keep_own_instance(others, 1)
        assert others == before


def test_cuda_stops_at_the_first_name_that_names_nothing():
    assert named({}) is None
    for text, names in (("", []), ("-1", []), ("0, 1", ["0", "1"]), ("1,-1,0", ["1"]), ("NoDevFiles", [])):
        assert named({"CUDA_VISIBLE_DEVICES": text}) == names


def test_a_gpu_that_is_named_and_not_there_is_an_error(cupy):
    environment = {"CUDA_VISIBLE_DEVICES": "0,1,7,2"}
    assert missing(environment, 4) is None
    cupy.cuda.runtime.count = 2
    with pytest.raises(
        RuntimeError, match="=0,1,7,2 names 4 GPUs, of which CUDA finds 2: '7' is not there, or named tw"
    ):
        choose(environment)


def test_no_gpu_is_an_error_that_says_why(monkeypatch):
    def no_gpu():
        raise RuntimeError("CuPy finds none")

    monkeypatch.setattr(local, "cupy_with_gpu", no_gpu)
    with pytest.raises(RuntimeError, match=r"^CuPy finds none$"):
        choose({})
    for text in ("", "-1"):
        with pytest.raises(RuntimeError, match=f"CUDA_VISIBLE_DEVICES is '{text}', which hides all GPUs; unset it"):
            choose({"CUDA_VISIBLE_DEVICES": text})


def test_a_rank_that_is_no_number_is_an_error(cupy):
    with pytest.raises(RuntimeError, match="SLURM_LOCALID='n1' is no number"):
        choose({"SLURM_LOCALID": "n1"})


def test_what_a_rank_tells_the_others(cupy):
    cupy.cuda.runtime.count = 2
    gpu = local.CudaAccelerator(1, cupy, driver=cupy_on_host.driver)
    assert local.booking(gpu) == Booking("0000:5E:00.0", ("0000:3B:00.0", "0000:5E:00.0"))


A, B = "0000:3B:00.0", "0000:5E:00.0"


def test_two_nodes_with_gpus_of_the_same_addresses_share_none():
    bookings = [Booking(A, (A, B)), Booking(B, (A, B))] * 2
    assert double_booked([0, 0, 1, 1], bookings) is None
    assert crowded([0, 0, 1, 1], bookings) is None


def test_two_ranks_on_one_gpu_though_there_is_another_are_wrong():
    for bookings in ([Booking(A, (A, B))] * 2, [Booking(A, (A,)), Booking(B, (B,)), Booking(A, (A, B, "C"))]):
        node = [4] * len(bookings)
        said = double_booked(node, bookings)
        assert said.startswith(f"ranks 0, {len(node) - 1} share GPU {A}, of {len(node)} for {len(node)} ranks. They")
        assert crowded(node, bookings) is None


def test_more_ranks_than_gpus_are_told_and_not_wrong():
    bookings = [Booking(A, (A,))] * 3
    assert double_booked([0, 0, 0], bookings) is None
    assert crowded([0, 0, 0], bookings) == f"ranks 0, 1, 2 share GPU {A}, of 1 for 3 ranks"


def test_a_script_may_have_chosen(cupy):
    assert choose({"SLURM_LOCALID": "3", "HPCDIST_GPU": "1"}) == "GPU 1"
    for text in ("4", "-1", "GPU-1", ""):
        with pytest.raises(RuntimeError, match=rf"HPCDIST_GPU='{text}' names none of the 4 GPUs"):
            choose({"HPCDIST_GPU": text})


def test_ranks_of_the_report_choose_before_mpi_starts():
    program = """
import sys
from hpcdist.device.kinds import KINDS
from hpcdist.bench.gpu.ranks import main
def choose():
    print("mpi4py.MPI" in sys.modules, flush=True)
    raise SystemExit
KINDS["cuda"] = choose
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "False"
