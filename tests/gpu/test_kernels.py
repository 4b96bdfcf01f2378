"""The CUDA kernels beside their NumPy twins on a GPU: the same cases that tests/unit runs on the host."""

import numpy as np
import pytest
from kernel_twins import CASES

from hpcdist.kernels.combine import combine
from hpcdist.kernels.device import CUDA, cupy_with_gpu


@pytest.fixture(scope="session")
def on():
    try:
        cupy_with_gpu()
    except RuntimeError as error:
        pytest.skip(str(error))
    return CUDA


@pytest.mark.limit(600)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("seed", range(20))
def test_a_kernel_has_the_bits_of_its_twin(on, case, seed):
    case(on, seed)


def test_a_kernel_runs_in_cupys_current_stream(on):
    cupy = cupy_with_gpu()
    x = cupy.ones(1 << 24, np.float32)
    cupy.cuda.Device().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(10):
            combine("sum", x, [x, x], on=on)
        stream.synchronize()
    assert (x == 1024).all()


def test_host_memory_is_refused(on):
    x = np.ones(3, np.float32)
    with pytest.raises(TypeError, match=r"out is a ndarray, not in device memory; pass cupy.asarray\(out\)"):
        combine("sum", x, [x, x], on=on)
