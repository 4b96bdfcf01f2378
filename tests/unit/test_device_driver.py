"""What is asked of the CUDA driver, of a library that has its calls and answers as it is told."""

import ctypes
import shutil
import subprocess

import pytest

from hpcdist.device import driver
from hpcdist.device.driver import Allocation

COMPILER = shutil.which("g++")

# Types as in cuda.h, so that an argument of the wrong size shows. At 0x7f12_0000_0000 lies an allocation of 5 GiB.
LIBRARY = """
#include <cstddef>
#include <cstring>
extern "C" {
unsigned long long attributes[32];
const unsigned long long BEGIN = 0x7f1200000000ull;
const size_t NBYTES = 5ull << 30;
static bool outside(unsigned long long at) { return at < BEGIN || at >= BEGIN + NBYTES; }
int cuMemGetAddressRange_v2(unsigned long long* base, size_t* nbytes, unsigned long long at) {
    if (outside(at)) return 1;
    *base = BEGIN;
    *nbytes = NBYTES;
    return 0;
}
int cuPointerGetAttribute(void* data, int attribute, unsigned long long at) {
    if (outside(at)) return 1;
    std::memcpy(data, &attributes[attribute], attribute == 7 || attribute == 17 ? 8 : 1);  // booleans are a byte
    return 0;
}
int cuDeviceGet(int* device, int number) {
    *device = number + 40;
    return 0;
}
int cuDeviceGetUuid_v2(unsigned char* uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = static_cast<unsigned char>(device + i);
    return 0;
}
int cuGetErrorName(int, const char** name) {
    *name = "CUDA_ERROR_INVALID_VALUE";
    return 0;
}
void answer(int attribute, unsigned long long value) { attributes[attribute] = value; }
}
"""
INSIDE = 0x7F1200000000 + (4 << 30) + 8

pytestmark = pytest.mark.skipif(COMPILER is None, reason="the library is made by g++, and there is none")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    (folder / "cuda.cpp").write_text(LIBRARY)
    subprocess.run([COMPILER, "-shared", "-fPIC", folder / "cuda.cpp", "-o", folder / "libcuda.so"], check=True)
    return str(folder / "libcuda.so")


@pytest.fixture
def answer(library, monkeypatch):
    """Tell the library what to say of an address: answer(attribute, value)."""
    monkeypatch.setattr(driver, "LIBRARY", library)
    driver._library.cache_clear()

    def tell(attribute, value):
        driver._library().answer(ctypes.c_int(attribute), ctypes.c_uint64(value))

    for attribute in range(32):
        tell(attribute, 0)
    yield tell
    driver._library.cache_clear()


def test_an_address_lies_in_an_allocation_with_a_number_of_its_own(answer):
    answer(7, 2**40 + 3)
    assert driver.allocation(INSIDE) == Allocation(0x7F1200000000, 5 << 30, 2**40 + 3)


def test_what_ipc_cannot_share_is_named(answer):
    assert driver.unshareable(INSIDE).startswith("memory that was not allocated by cudaMalloc")
    answer(17, 0x7F0000000000)
    assert driver.unshareable(INSIDE) == "memory of a stream-ordered pool (cudaMallocAsync)"
    answer(8, 1)
    assert driver.unshareable(INSIDE) == "managed memory"
    answer(10, 1)
    assert driver.unshareable(INSIDE) is None


def test_an_instance_has_a_name(answer):
    assert driver.unique_name(2) == "2a2b2c2d-2e2f-3031-3233-343536373839"


def test_an_error_of_the_driver_is_said_with_its_name(answer):
    for call in (driver.allocation, driver.unshareable):
        with pytest.raises(RuntimeError, match=r"of the CUDA driver failed: CUDA_ERROR_INVALID_VALUE \(1\)"):
            call(0x1000)
