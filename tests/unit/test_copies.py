"""Copies that do not depend on addresses: every byte arrives, and none beside."""

import itertools

import numpy as np
import pytest

from hpcdist.kernels import reduce as kernels

OFFSETS = (0, 1, 4, 15, 16, 20, 63, 64, 1056, 4080, 4095)
SIZES = (0, 1, 63, 64, 127, 128, 129, 191, 1000, 4096, 65_537)


def page(count):
    """Bytes that begin with a page, and `count` more."""
    memory = np.zeros(count + 2 * 4096, np.uint8)
    first = -memory.ctypes.data % 4096
    return memory[first:]


@pytest.mark.parametrize("name", ["copy_entry", "stream_entry"])
def test_compiled_copies(name):
    copy_loops = pytest.importorskip("hpcdist.kernels.copy_loops")
    copy = getattr(copy_loops, name).ctypes
    largest = 4096 + max(SIZES) + 64
    source = page(largest)
    source[:] = np.random.default_rng(0).integers(0, 256, len(source))
    for size, (here, there) in itertools.product(SIZES, itertools.product(OFFSETS, OFFSETS)):
        target = page(largest)
        assert copy(target.ctypes.data + there, source.ctypes.data + here, size) == 0
        np.testing.assert_array_equal(target[there : there + size], source[here : here + size])
        assert not target[:there].any()
        assert not target[there + size : there + size + 128].any()


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int32"])
def test_copies_without_numba_keep_all_bits(dtype):
    count, itemsize = 40_000, np.dtype(dtype).itemsize
    memory = page(count)
    memory[:] = np.random.default_rng(1).integers(0, 256, len(memory))  # signalling NaNs among them
    for offset in (0, 8, 16, 56, 64, 1056):
        for size in (0, 8, 2048, 32_768):
            source = memory[:size].view(dtype)
            target = page(count)[offset : offset + size].view(dtype)
            kernels.copy(target, source)
            assert target.tobytes() == source.tobytes()
            assert size % itemsize == 0
