"""GPUs by CuPy, without a GPU: calls on host memory, kernels by g++. What needs one is in tests/gpu."""

import gc
import importlib
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import cupy_on_host
import ml_dtypes
import numpy as np
import pytest
from buffers import bits, special
from cuda_on_host import COMPILER, Host
from kernel_twins import KERNELS

from hpcdist.device import Share, accelerator_of, problem_with
from hpcdist.device.cuda import CudaAccelerator
from hpcdist.device.opened import Foreign, Opened, token
from hpcdist.kernels import combine
from hpcdist.kernels.reduce import DTYPES, OPS, average

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="kernels are run on the host by g++, and there is none")


class Kernels(Host):
    """Kernels that are run here on the arrays of cupy_on_host."""

    def address(self, name, array):
        return array.data.ptr if isinstance(array, cupy_on_host.ndarray) else super().address(name, array)

    def launch(self, source, kernel, blocks, arguments):
        assert cupy_on_host.Stream.current, "a kernel in no stream of its own"
        super().launch(source, kernel, blocks, arguments)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory):
    return Kernels(tmp_path_factory.mktemp("kernels"), KERNELS)


@pytest.fixture
def cupy():
    return cupy_on_host.cupy()


@pytest.fixture
def gpu(cupy, kernels):
    return CudaAccelerator(0, cupy, kernels, cupy_on_host.driver)


@pytest.fixture
def other(cupy, kernels):
    """What another process has of the same GPU: its shares are not this one's own."""
    other = CudaAccelerator(0, cupy, kernels, cupy_on_host.driver)
    share = other.share

    def foreign(array):
        mine = share(array)
        return replace(mine, allocation=replace(Foreign.unpack(mine.allocation), process=b"another process.").pack())

    other.share = foreign
    return other


# ---- arrays


def test_there_and_back(gpu):
    for dtype in DTYPES.values():
        values = np.arange(12).astype(dtype).reshape(3, 4)
        there = gpu.put(values)
        assert there.shape == (3, 4)
        assert gpu.dtype_of(there) == dtype
        assert gpu.problem_with("x", there, True) is None
        np.testing.assert_array_equal(bits(gpu.get(there)), bits(values))
        np.testing.assert_array_equal(bits(gpu.get(gpu.put(values.T))), bits(values.T.copy()))
    assert gpu.get(gpu.put(np.zeros((0, 3), np.float32))).shape == (0, 3)


def test_bfloat16_is_stored_as_uint16(gpu):
    assert gpu.empty(3, ml_dtypes.bfloat16).dtype == np.uint16
    assert gpu.pinned(3, ml_dtypes.bfloat16).dtype == ml_dtypes.bfloat16


def test_page_locked_memory_is_as_large_as_asked_for(gpu):
    for count in (0, 1, 7):
        array = gpu.pinned(count, np.int64)
        assert array.shape == (count,)
        assert array.flags.writeable
        array[...] = 5


def test_which_arrays_are_no_buffers(gpu, cupy):
    x = gpu.put(np.zeros((4, 6), np.float32))
    for wrong, text in (
        (x[:, ::2], r"x of shape \(4, 3\) is not contiguous \(strides \(24, 8\)\); pass cupy.ascontiguousarray\(x\)"),
        (
            gpu.put(np.zeros(3, np.complex64)),
            "x has dtype complex64; supported are float64, .* with uint16 for bfloat16",
        ),
        (type("Masked", (cupy_on_host.ndarray,), {})((3,), np.float32, x.data), r"x is a Masked, .*view\(cupy.ndarray"),
    ):
        assert_matches(gpu.problem_with("x", wrong, True), text)
    with cupy.cuda.Device(1):
        text = r"x is on GPU 0, and the current one of this thread is 1; call cupy.cuda.Device\(0\).use\(\) first"
        assert_matches(gpu.problem_with("x", x, True), text)
    cupy.cuda.runtime.is_hip = True
    assert_matches(gpu.problem_with("x", x, True), "on a GPU of AMD's.*pass host memory, x.get()")


def assert_matches(said, text):
    with pytest.raises(ValueError, match=text):
        raise ValueError(said)


def test_a_gpu_is_the_same_for_all_processes_by_its_identity(cupy, kernels):
    cupy.cuda.runtime.name = b"NVIDIA A100-SXM4-40GB"
    assert CudaAccelerator(1, cupy, kernels, cupy_on_host.driver).identity == "0000:5E:00.0"
    cupy.cuda.runtime.name = b"NVIDIA A100-SXM4-40GB MIG 3g.20gb"
    assert CudaAccelerator(1, cupy, kernels, cupy_on_host.driver).identity == "0000:5E:00.0/uuid-1"


# ---- streams


def test_an_event_is_reached_or_not_or_says_what_is_wrong(gpu, cupy):
    event = gpu.stream().record()
    assert event.done()
    cupy.cuda.runtime.status = 600
    assert not event.done()
    cupy.cuda.runtime.status = 700
    with pytest.raises(cupy_on_host.CUDARuntimeError, match="700"):
        event.done()


def test_a_stream_follows_the_event_of_another(gpu):
    one, two = gpu.stream(), gpu.current()
    event = two.record()
    one.follow(event)
    assert two.raw.done == [("record", event.raw.ptr)]
    assert one.raw.done == [("wait", event.raw.ptr)]


def test_copies_go_in_their_stream_both_ways(gpu, cupy):
    stream, values = gpu.stream(), np.arange(5, dtype=np.float16)
    host, there, back = gpu.pinned(5, np.float16), gpu.empty(5, np.float16), gpu.pinned(5, np.float16)
    host[...] = values
    stream.copy(there, host)
    stream.copy(back, there)
    np.testing.assert_array_equal(back, values)
    copies = [call for call in cupy.cuda.runtime.calls if call[0] == "memcpyAsync"]
    assert copies == [("memcpyAsync", stream.raw.ptr)] * 2
    stream.copy(there[:0], host[:0])


def test_host_memory_is_asked_for_on_the_device_of_the_stream(gpu, cupy):
    with cupy.cuda.Device(1):
        gpu.stream().copy(gpu.empty(5, np.float16), gpu.pinned(5, np.float16))
    assert ("pointerGetAttributes", 0) in cupy.cuda.runtime.calls
    assert ("pointerGetAttributes", 1) not in cupy.cuda.runtime.calls


def test_what_cannot_be_copied_is_refused(gpu):
    stream, there = gpu.stream(), gpu.empty(8, np.float32)
    for target, source, text in (
        (there, there[:4], "16 bytes cannot be copied to 32"),
        (there[:4], there[::2], r"source of shape \(4,\) has gaps"),
        (there, np.zeros(8, np.float32), "source is in host memory that is not page-locked; streams need .* pinned()"),
        (np.zeros(8, np.float32), there, "target is in host memory that is not page-locked"),
    ):
        with pytest.raises(ValueError, match=text):
            stream.copy(target, source)


@pytest.mark.paired(times=2)
@needs_compiler
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("targets", "sources"), [(1, 2), (1, 1), (2, 3), (4, 4)])
def test_a_combination_has_the_bits_of_numpy(gpu, op, dtype, targets, sources):
    rows = list(
        special(sources, 201, dtype) if DTYPES[dtype].kind != "i" else np.arange(201 * sources).reshape(sources, 201)
    )
    rows = [row.astype(DTYPES[dtype]) for row in rows]
    there = [gpu.put(row) for row in rows]
    if sources > 1:
        there[1] = gpu.pinned(201, DTYPES[dtype])
        there[1][...] = rows[1]
    into = [there[0], *(gpu.empty(201, DTYPES[dtype]) for _ in range(targets - 1))]
    gpu.stream().combine(op, into, there)
    wanted = combine.combined("sum" if op == "avg" else op, rows)
    for array in into:
        np.testing.assert_array_equal(bits(gpu.get(array)), bits(wanted))


@needs_compiler
def test_an_average_has_the_bits_of_numpy(gpu):
    for dtype in DTYPES.values():
        total = np.arange(-50, 50).astype(dtype)
        there = gpu.put(total)
        gpu.stream().average(there, 7)
        average(total, 7)
        np.testing.assert_array_equal(bits(gpu.get(there)), bits(total))


def test_what_cannot_be_combined_is_refused(gpu):
    x, stream = gpu.empty(8, np.float32), gpu.stream()
    for targets, sources, text in (
        ([x], [x, x[:4]], r"one size and type must be combined, not \[\(4, 'float32'\), \(8, 'float32'\)\]"),
        ([x], [x, gpu.empty(8, np.int32)], "int32"),
        ([x], [], "there are 0 sources; a kernel takes from 1 to 64"),
        ([x], [x] * 65, "there are 65 sources; a kernel takes from 1 to 64"),
        ([], [], "one size and type"),
        ([x], [x, np.zeros(8, np.float32)], r"sources\[1\] is in host memory that is not page-locked"),
    ):
        with pytest.raises(ValueError, match=text):
            stream.combine("sum", targets, sources)
    with pytest.raises(ValueError, match="no kernel for 'mean'"):
        stream.combine("mean", [x], [x, x])


# ---- memory of other processes


def opens(cupy):
    return [name for name, _ in cupy.cuda.runtime.calls if name in ("ipcOpenMemHandle", "ipcCloseMemHandle")]


def test_memory_of_another_process_is_opened_once_for_each_allocation(gpu, other, cupy):
    arrays = [other.put(np.arange(7.0) + number) for number in range(2)]  # in one allocation
    shares = [other.share(array) for array in arrays]
    assert shares[0].allocation == shares[1].allocation
    assert shares[0].offset != shares[1].offset
    views = [gpu.opened(share, np.float64) for share in shares * 2]
    for view, array in zip(views, arrays * 2, strict=True):
        np.testing.assert_array_equal(view.get(), array.get())
    part = gpu.opened(other.share(arrays[1][2:5]), np.float64)
    np.testing.assert_array_equal(part.get(), [3, 4, 5])
    assert opens(cupy) == ["ipcOpenMemHandle"]
    gpu.close()
    gpu.close()
    del views, view, part
    assert opens(cupy) == ["ipcOpenMemHandle", "ipcCloseMemHandle"]


def test_the_last_array_of_an_allocation_closes_it(gpu, other, cupy):
    share = other.share(other.put(np.arange(7.0)))
    first, second = (gpu.opened(share, np.float64) for _ in range(2))
    part = second[3:]
    del first, second
    assert opens(cupy) == ["ipcOpenMemHandle"]
    del part
    assert opens(cupy) == ["ipcOpenMemHandle", "ipcCloseMemHandle"]
    gpu.opened(share, np.float64)
    assert opens(cupy) == ["ipcOpenMemHandle", "ipcCloseMemHandle"] * 2


def test_what_nobody_can_reach_is_closed_where_it_is_in_the_way(gpu, other, cupy):
    shares = [other.share(other.put(np.arange(float(count)))) for count in (7, 1000)]
    circle = [gpu.opened(shares[0], np.float64)]
    circle.append(circle)
    gc.disable()
    try:
        del circle
        cupy.cuda.runtime.refuses = [208]
        kept = gpu.opened(shares[1], np.float64)
    finally:
        gc.enable()
    assert opens(cupy) == ["ipcOpenMemHandle", "ipcCloseMemHandle", "ipcOpenMemHandle"]
    assert kept.size == 1000
    cupy.cuda.runtime.refuses = [208, 208]
    with pytest.raises(RuntimeError, match="cudaError 208"):
        gpu.opened(shares[0], np.float64)


def test_a_handle_is_asked_for_once_for_each_allocation(gpu, cupy):
    first, second = (gpu.put(np.arange(7.0)) for _ in range(2))
    assert [gpu.share(second[begin:]).offset for begin in range(3)] == [512, 520, 528]
    assert cupy.cuda.runtime.calls == [("ipcGetMemHandle", first.data.ptr)]


def test_memory_of_this_process_is_never_opened(gpu, cupy):
    array = gpu.put(np.arange(7.0))
    view = gpu.opened(gpu.share(array[1:]), np.float64)
    assert view.data.ptr == array.data.ptr + 8
    assert gpu.share(view) == gpu.share(array[1:])
    assert opens(cupy) == []


def test_memory_of_another_process_is_not_shared_once_more(gpu, other):
    there = gpu.opened(other.share(other.put(np.arange(7.0))), np.float64)
    with pytest.raises(ValueError, match="it is memory of another process"):
        gpu.share(there)


def test_nothing_can_be_shared_and_opened(gpu):
    assert gpu.share(gpu.empty(0, np.float32)) == Share(b"", 0, 0)
    assert gpu.opened(Share(b"", 0, 0), ml_dtypes.bfloat16).size == 0


def test_memory_that_ipc_cannot_share_is_refused(gpu, cupy):
    pool = cupy.cuda.MemoryPool("memory of a stream-ordered pool (cudaMallocAsync)")
    array = cupy.ndarray((3,), np.float32, pool.malloc(12))
    text = r"it is memory of a stream-ordered pool \(cudaMallocAsync\), which CUDA IPC cannot share; allocate it from"
    assert_matches(gpu.unshareable(array), text)
    with pytest.raises(ValueError, match=text):
        gpu.share(array)
    gpu._driver = SimpleNamespace(unshareable=cupy_on_host.driver.unshareable)  # of some the driver knows no allocation
    with pytest.raises(ValueError, match=text):
        gpu.share(array)
    gpu._driver = cupy_on_host.driver
    assert gpu.unshareable(gpu.empty(3, np.float32)) is None


def test_what_cannot_be_opened_says_why(gpu, other, cupy):
    share = other.share(other.put(np.arange(7.0)))
    with pytest.raises(ValueError, match="55 bytes are no number of elements of 8 bytes"):
        gpu.opened(replace(share, nbytes=55), np.float64)
    with pytest.raises(ValueError, match="5 bytes name no allocation"):
        gpu.opened(replace(share, allocation=b"never"), np.float64)
    cupy.cuda.runtime.refuses = 201
    with pytest.raises(RuntimeError, match=r"0000:3B:00.0 cannot open .* cudaError 201. With --gpus-per-task"):
        gpu.opened(share, np.float64)


def test_the_way_to_another_gpu_is_looked_at_before_its_memory_is_opened(gpu, other, cupy):
    share = other.share(other.put(np.arange(7.0)))
    theirs = replace(Foreign.unpack(share.allocation), device=cupy_on_host.PCI[1])
    gpu.opened(replace(share, allocation=theirs.pack()), np.float64)
    cupy.cuda.runtime.peers = False
    theirs = replace(theirs, number=999)
    with pytest.raises(RuntimeError, match=r"GPU 0000:3B:00.0 cannot read the memory of GPU 0000:5E:00.0; `nvidia-smi"):
        gpu.opened(replace(share, allocation=theirs.pack()), np.float64)
    assert gpu.unreachable(gpu.identity) is None
    assert gpu.unreachable("0000:FF:00.0") is None  # not seen by this process


# ---- names of allocations


MINE = Foreign(b"a" * 16, 7, 0x1000, 0x200, bytes(range(64)), "0000:3B:00.0")


def test_a_name_survives_the_journey():
    assert Foreign.unpack(MINE.pack()) == MINE
    assert len(MINE.pack()) < 160
    assert not MINE.own
    assert replace(MINE, process=token(os.getpid())).own


def test_processes_have_tokens_of_their_own_even_after_a_fork():
    program = """
import os
from hpcdist.device.opened import token
print(token(os.getpid()).hex(), flush=True)
if os.fork() == 0: print(token(os.getpid()).hex())
else: os.wait(); print(token(os.getpid()).hex())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    one, child, again = done.stdout.split()
    assert one == again != child


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"number": 8}, True),
        ({"number": 8, "base": 0x11FF}, True),
        ({"number": 8, "base": 0xF00, "nbytes": 0x101}, True),
        ({"number": 8, "base": 0x1200}, False),
        ({"number": 8, "base": 0xF00, "nbytes": 0x100}, False),
        ({"number": 8, "process": b"b" * 16}, False),
        ({"number": 8, "device": "0000:5E:00.0"}, False),
    ],
)
def test_an_allocation_where_another_one_was_closes_that(change, stale):
    calls = []
    opened = Opened(
        lambda allocation: calls.append(("open", allocation.number)) or allocation.number,
        lambda at: calls.append(("close", at)),
    )
    kept = [opened.mapping(MINE), *(opened.mapping(replace(MINE, **change)) for _ in range(2))]
    assert [mapping.address for mapping in kept] == [7, 8, 8]
    assert calls == [("open", 7), *([("close", 7)] if stale else []), ("open", 8)]


# ---- how arrays find their device


class Torch:
    """A tensor of another library."""

    __cuda_array_interface__ = property(lambda self: {"shape": (3,)})


def test_arrays_of_cupy_find_their_gpu_and_no_others_do(monkeypatch, cupy):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    asked = []
    monkeypatch.setattr("hpcdist.device.cuda.accelerator", lambda number: asked.append(number) or "the GPU")
    memory = cupy.cuda.MemoryPool().malloc(12)
    assert accelerator_of(cupy_on_host.ndarray((3,), np.float32, memory, device=1)) == "the GPU"
    assert asked == [1]
    for other in (np.zeros(3), np.float32(1), [1.0], None, Torch()):
        assert accelerator_of(other) is None


def test_tensors_of_other_libraries_are_told_how_to_share_their_memory():
    assert_matches(problem_with("x", Torch(), True), r"x is in device memory as a Torch; .* cupy.asarray\(x\)")


def test_nothing_of_this_imports_cupy():
    program = """
import sys
import numpy
import hpcdist.device, hpcdist.device.cuda, hpcdist.device.local
class Torch: __cuda_array_interface__ = {}
for array in (numpy.zeros(3), Torch()):
    assert hpcdist.device.accelerator_of(array) is None
    hpcdist.device.problem_with("x", array, True)
print([name for name in sys.modules if name.partition(".")[0] in ("cupy", "mpi4py")])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(importlib.util.find_spec("cupy") is None, reason="there is no CuPy to compare with")
def test_cupy_has_all_that_is_called_here(cupy):
    real = importlib.import_module("cupy")
    runtime = [name for name in dir(cupy_on_host.Runtime) if not name.startswith("_")]
    for mine, theirs in ((vars(cupy.cuda), real.cuda), (runtime, real.cuda.runtime), (["is_hip"], real.cuda.runtime)):
        assert [name for name in mine if not hasattr(theirs, name)] == []
    for name in ("data", "device", "flags", "get", "set", "reshape"):
        assert hasattr(real.ndarray, name)
    assert real.cuda.runtime.memoryTypeHost == cupy.cuda.runtime.memoryTypeHost
