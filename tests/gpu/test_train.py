"""Training on GPUs, on one rank or on several: `hpcdist run -n 2 -- pytest --with-mpi tests/gpu/test_train.py`."""

import numpy as np
import pytest
from mpi4py import MPI
from train_cases import *  # noqa: F403

import hpcdist
from hpcdist.device.kinds import by_name
from hpcdist.device.paths import AWARE, PEER, STAGED
from hpcdist.errors import ArgumentError
from hpcdist.kernels.device import cupy_with_gpu

pytestmark = pytest.mark.mpi
pytest.importorskip("sklearn", reason="trains on the digits")


@pytest.fixture(autouse=True, scope="module")
def kind():
    try:
        by_name("cuda")
    except RuntimeError as error:
        pytest.skip(str(error))
    return "cuda"


@pytest.fixture(params=[STAGED, AWARE, PEER])
def path(request, kind):
    try:
        hpcdist.plan(MPI.COMM_WORLD, by_name(kind).empty(1, np.float32), path=request.param).close()
    except ArgumentError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture
def slow():
    cupy = cupy_with_gpu()
    large = cupy.ones((4096, 4096), np.float32)

    def multiply() -> None:
        for _ in range(20):
            cupy.matmul(large, large)

    return multiply
