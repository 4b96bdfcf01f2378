"""The GPU behind hpcdist.device: order of work, memory of all kinds, memory of other processes."""

import itertools
import multiprocessing
import os
import threading
import time

import numpy as np
import pytest
from buffers import bits, special

from hpcdist.device import Share, accelerator_of, problem_with
from hpcdist.device.cuda import accelerator
from hpcdist.doctor.probe import alone
from hpcdist.kernels import combine
from hpcdist.kernels.average import averaged
from hpcdist.kernels.device import cupy_with_gpu
from hpcdist.kernels.reduce import DTYPES, OPS

LONG = 1 << 28  # clock cycles: some 0.15 s, in which the host gets far ahead of the device
SLOW = """
extern "C" __global__ void wait(long long cycles) {
    long long begin = clock64();
    while (clock64() - begin < cycles) {}
}
"""


@pytest.fixture(scope="session")
def cupy(gpu):
    return cupy_with_gpu()


@pytest.fixture(scope="session")
def slow(gpu, cupy):
    """A kernel that takes long, put into a stream."""
    kernel = cupy.RawKernel(SLOW, "wait")

    def submit(stream, cycles=LONG):
        with stream.raw:
            kernel((1,), (1,), (np.int64(cycles),))

    submit(gpu.stream(), 1)  # compiles it
    return submit


def numbers(dtype, count=1000, seed=0):
    if DTYPES[dtype].kind == "i":
        return np.random.default_rng(seed).integers(-1000, 1000, count).astype(DTYPES[dtype])
    return special(1, count, dtype, seed)[0]


# ---- arrays


@pytest.mark.parametrize("dtype", DTYPES)
def test_there_and_back(gpu, dtype):
    values = numbers(dtype).reshape(20, 50)
    there = gpu.put(values)
    assert there.shape == (20, 50)
    assert gpu.dtype_of(there) == DTYPES[dtype]
    assert accelerator_of(there) is gpu
    assert problem_with("x", there, True) is None
    np.testing.assert_array_equal(bits(gpu.get(there)), bits(values))


def test_a_device_has_one_identity_in_all_processes(gpu, cupy):
    assert gpu.identity.startswith(cupy.cuda.Device(gpu.number).pci_bus_id)
    assert gpu.unreachable(gpu.identity) is None


def test_wrong_arrays_are_refused(gpu, cupy):
    x = cupy.zeros((4, 6), cupy.float32)
    assert "is not contiguous" in problem_with("x", x[:, ::2], True)
    assert "has dtype complex64" in problem_with("x", cupy.zeros(3, cupy.complex64), True)
    assert "is a Other" in problem_with("x", x.view(type=type("Other", (cupy.ndarray,), {})), True)


def test_buffers_are_plain_whatever_allocator_cupy_has(gpu, cupy):
    before = cupy.cuda.get_allocator()
    cupy.cuda.set_allocator(cupy.cuda.MemoryAsyncPool().malloc)
    try:
        assert gpu.unshareable(gpu.empty(100, np.float32)) is None
        assert "stream-ordered pool" in gpu.unshareable(cupy.zeros(100, cupy.float32))
    finally:
        cupy.cuda.set_allocator(before)


# ---- order


def test_an_event_is_not_reached_before_the_work_in_front_of_it(gpu, slow):
    stream = gpu.stream()
    slow(stream)
    event = stream.record()
    assert not event.done()
    event.wait()
    assert event.done()


def test_a_stream_waits_for_no_other_by_itself(gpu, slow):
    slow(gpu.current())
    late = gpu.current().record()
    stream = gpu.stream()
    stream.record().wait()
    assert not late.done()
    late.wait()


@pytest.mark.parametrize("producer", ["current", "other"])
def test_a_copy_that_follows_a_slow_kernel_sees_what_it_makes(gpu, cupy, slow, producer):
    x, back = gpu.put(np.zeros(1000, np.float32)), gpu.pinned(1000, np.float32)
    back[...] = -1
    first, second = gpu.current() if producer == "current" else gpu.stream(), gpu.stream()
    with first.raw:
        x += 0  # compiles it
    slow(first)
    with first.raw:
        x += 1
    second.follow(first.record())
    second.copy(back, x)
    done = second.record()
    assert not done.done()
    assert (back == -1).all()
    done.wait()
    assert (back == 1).all()


def test_copies_return_at_once(gpu, slow):
    stream, there = gpu.stream(), gpu.empty(1 << 22, np.float32)
    host = gpu.pinned(1 << 22, np.float32)
    slow(stream)
    began = time.perf_counter()
    stream.copy(there, host)
    stream.copy(host, there)
    event = stream.record()
    assert not event.done(), f"two copies took {time.perf_counter() - began} s"
    event.wait()


def test_what_is_in_flight_need_not_be_on_the_main_thread(gpu):
    source, target = gpu.put(np.arange(100.0)), gpu.empty(100, np.float64)

    def work():
        stream = gpu.stream()
        stream.combine("sum", [target], [source, source, source])
        stream.record().wait()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(gpu.get(target), 3 * np.arange(100.0))


def test_the_current_stream_is_cupys(gpu, cupy):
    assert gpu.current().raw == cupy.cuda.get_current_stream()
    with cupy.cuda.Stream(non_blocking=True) as mine:
        assert gpu.current().raw.ptr == mine.ptr
        gpu.current().record().wait()
    with cupy.cuda.Stream.ptds:
        gpu.current().record().wait()


# ---- copies and combinations


@pytest.mark.parametrize("count", [0, 1, 7, 100_000])
def test_copies_between_all_kinds_of_memory(gpu, count):
    stream, values = gpu.stream(), np.random.default_rng(count).integers(0, 256, count).astype(np.uint8)
    host, back = (gpu.pinned(count, np.uint8) for _ in range(2))
    one, two = (gpu.empty(count, np.uint8) for _ in range(2))
    host[...] = values
    for target, source in ((one, host), (two, one), (back, two)):
        stream.copy(target, source)
    stream.record().wait()
    np.testing.assert_array_equal(back, values)


def test_pageable_memory_is_refused(gpu):
    there = gpu.empty(8, np.float32)
    for call in (
        lambda: gpu.stream().copy(there, np.zeros(8, np.float32)),
        lambda: gpu.stream().combine("sum", [there], [there, np.zeros(8, np.float32)]),
    ):
        with pytest.raises(ValueError, match="is in host memory that is not page-locked"):
            call()


@pytest.mark.limit(600)
@pytest.mark.parametrize(("targets", "sources"), [(1, 1), (1, 2), (1, 16), (2, 2), (8, 8), (64, 64)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_combination_has_the_bits_of_its_twin(gpu, dtype, targets, sources):
    stream = gpu.stream()
    for op, count in itertools.product(OPS, (1, 777, 40_000)):
        rows = [numbers(dtype, count, seed) for seed in range(sources)]
        there = [gpu.put(row) for row in rows]
        for odd in range(1, sources, 2):
            there[odd] = gpu.pinned(count, DTYPES[dtype])
            there[odd][...] = rows[odd]
        into = [there[0], *(gpu.empty(count, DTYPES[dtype]) for _ in range(targets - 1))]
        stream.follow(gpu.current().record())
        stream.combine(op, into, there)
        stream.record().wait()
        wanted = combine.combined("sum" if op == "avg" else op, rows)
        for array in into:
            np.testing.assert_array_equal(bits(gpu.get(array)), bits(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_an_average_has_the_bits_of_its_twin(gpu, dtype, size):
    total = numbers(dtype)
    there = gpu.put(total)
    stream = gpu.stream()
    stream.average(there, size)
    stream.record().wait()
    np.testing.assert_array_equal(bits(gpu.get(there)), bits(averaged(total, size, total.dtype)))


def test_a_launch_copies_no_table_of_addresses(gpu, slow):
    """One that did would wait for the stream, or for a copy in it."""
    stream, arrays = gpu.stream(), [gpu.put(np.ones(8, np.float32)) for _ in range(3)]
    stream.combine("sum", arrays, arrays)  # compiles it
    slow(stream)
    for _ in range(20):
        stream.combine("sum", arrays, arrays)
    assert not stream.record().done()
    stream.record().wait()


# ---- memory of other processes

STEPS = 60  # seconds that a process waits for the other


def peer(pipe, number):
    """The other process: it opens what it is sent, writes to it, and says what it has seen."""
    try:
        gpu = accelerator(number)
        stream, arrays = gpu.stream(), {}
        while (order := pipe.recv()) is not None:
            name, share, dtype = order
            arrays[name] = gpu.opened(share, dtype)
            stream.follow(gpu.current().record())
            seen = gpu.get(arrays[name])
            stream.combine("sum", [arrays[name]], [arrays[name]] * 2)
            stream.record().wait()
            pipe.send((seen, len({array.data.mem.ptr for array in arrays.values()}), gpu.unshareable(arrays[name])))
        arrays.clear()
        gpu.close()
        pipe.send("closed")
    except Exception as error:
        pipe.send(error)


@pytest.fixture
def other(gpu, monkeypatch):
    for name in set(os.environ) - set(alone(os.environ)):  # the child is no rank of this one's job
        monkeypatch.delenv(name)
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=peer, args=(theirs, gpu.number))
    process.start()

    def ask(*order):
        mine.send(order if order else None)
        assert mine.poll(STEPS), "the other process does not answer"
        answer = mine.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    yield ask
    process.terminate()
    process.join()


@pytest.mark.limit(300)
def test_another_process_reads_and_writes_this_memory(gpu, other):
    blocks = [gpu.put(np.arange(1000, dtype=np.float32) + 1000 * block) for block in range(4)]  # of one allocation
    for block, array in enumerate(blocks):
        part = array[block : 900 + block]
        before = gpu.get(part)
        seen, _, closed = other(block, gpu.share(part), np.float32)
        np.testing.assert_array_equal(seen, before)
        np.testing.assert_array_equal(gpu.get(part), 2 * before)
        assert gpu.get(array)[-1] == 1000 * block + 999
        assert closed == "it is memory of another process"
    assert other() == "closed"


@pytest.mark.limit(300)
def test_memory_that_is_allocated_where_other_memory_was_is_opened_anew(gpu, cupy, other):
    for turn in range(5):
        memory = cupy.cuda.Memory(1 << 22)  # its own cudaMalloc, mostly at the same address
        array = cupy.ndarray((1 << 20,), np.float32, cupy.cuda.MemoryPointer(memory, 0))
        array[...] = turn
        cupy.cuda.Device().synchronize()
        seen, _, _ = other("x", gpu.share(array), np.float32)
        assert (seen == turn).all()
        del array, memory


@pytest.mark.limit(300)
def test_memory_is_opened_anew_after_its_last_array_has_gone(gpu, other):
    """The other process drops what it had under a name when it opens the next."""
    arrays = [gpu.put(np.full(1 << 20, value, np.float32)) for value in (1, 2)]
    for array in arrays * 3:
        before = gpu.get(array)
        seen, _, _ = other("x", gpu.share(array), np.float32)
        np.testing.assert_array_equal(seen, before)


def test_memory_of_this_process_is_not_opened(gpu):
    array = gpu.put(np.arange(10.0))
    view = gpu.opened(gpu.share(array[3:]), np.float64)
    assert view.data.ptr == array.data.ptr + 24
    np.testing.assert_array_equal(gpu.get(view), np.arange(3.0, 10.0))


def test_nothing_can_be_shared_and_opened(gpu):
    assert gpu.share(gpu.empty(0, np.float32)) == Share(b"", 0, 0)
    assert gpu.opened(Share(b"", 0, 0), np.float32).size == 0


@pytest.mark.parametrize("kind", ["malloc_async", "malloc_managed"])
def test_memory_that_ipc_cannot_share_is_refused(gpu, cupy, kind):
    memory = getattr(cupy.cuda, kind)(1024)
    array = cupy.ndarray((256,), np.float32, memory)
    text = {"malloc_async": "it is memory of a stream-ordered pool", "malloc_managed": "it is managed memory"}[kind]
    assert gpu.unshareable(array).startswith(text)
    with pytest.raises(ValueError, match=text):
        gpu.share(array)
