"""The simulated device guards: what is wrong on a GPU dies, raises or gives wrong numbers here, what is right works.

Programs that must die are processes of their own. Slow device work waits at a gate that the test opens, not for a time.
"""

import ctypes
import gc
import io
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import contextmanager
from pathlib import Path

import guarded
import ml_dtypes
import numpy as np
import pytest
from buffers import bits, distinct, special
from guarded import memory
from guarded.streams import _Worker
from numpy.lib.stride_tricks import sliding_window_view

from hpcdist.device.accelerator import _FINDERS, accelerator_of
from hpcdist.kernels.combine import combined
from hpcdist.kernels.reduce import DTYPES, average, combination
from hpcdist.models import MODELS
from hpcdist.optim.sgd import SGD

TESTS = Path(__file__).resolve().parents[1]
DEVICE = guarded.SIMULATED


def start(program, aware=False, **pipes):
    """A process of its own that runs a program, without a core file when it dies."""
    environment = os.environ | {"PYTHONPATH": str(TESTS), "GUARDED_AWARE": str(int(aware))}
    calm = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
    return subprocess.Popen([sys.executable, "-c", calm + program], env=environment, text=True, **pipes)


def run(program, aware=False):
    """(exit status, output) of a program."""
    process = start(program, aware, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output, _ = process.communicate()
    return process.returncode, output


@contextmanager
def held(stream):
    """Let a stream do nothing inside."""
    gate = threading.Event()
    stream.submit(gate.wait)
    try:
        yield
    finally:
        gate.set()


def numbers(*shape, dtype="float32", seed=0):
    """Values that all differ."""
    count = int(np.prod(shape))
    return distinct(1, count, dtype, seed=seed).reshape(shape)


def same(got, wanted):
    """That a device array has type, shape and bits of a host array."""
    assert isinstance(got, guarded.GuardedArray)
    wanted = np.asarray(wanted)
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_array_equal(bits(np.atleast_1d(got.get())), bits(np.atleast_1d(wanted)))


# What touches device memory from the host.

PREPARE = "import ctypes, io, guarded, numpy as np\nx = guarded.put(np.arange(5.0))\n"
MPI = PREPARE + "from mpi4py import MPI\nto = np.zeros(5)\n"
TRESPASSES = {
    "reads the address": PREPARE + "print(list((ctypes.c_double * 5).from_address(x.address)))",
    "writes to the address": PREPARE + "ctypes.memset(x.address, 0, 40); print(x.get().tolist())",
    "sends": MPI + "MPI.COMM_SELF.Sendrecv(x, 0, 0, to, 0, 0); print(to.tolist())",
    "receives": MPI + "MPI.COMM_SELF.Sendrecv(np.arange(5.0), 0, 0, x, 0, 0); print(guarded.peek(x).tolist())",
    "sends with a request": MPI
    + "r = MPI.COMM_SELF.Recv_init(to, 0); s = MPI.COMM_SELF.Send_init([x, 5, MPI.DOUBLE], 0)\n"
    + "MPI.Prequest.Startall([r, s]); MPI.Request.Waitall([r, s]); print(to.tolist())",
    "copies what MPI calls memory": MPI + "print(np.frombuffer(io.BytesIO(MPI.memory(x)).read()).tolist())",
}


@pytest.mark.parametrize("trespass", TRESPASSES)
def test_the_host_dies_when_it_touches_device_memory(trespass):
    status, output = run(TRESPASSES[trespass])
    assert (status, output) == (-signal.SIGSEGV, "")


@pytest.mark.parametrize("allowed", TRESPASSES)
def test_in_aware_mode_it_lives_and_sees_the_values(allowed):
    status, output = run(TRESPASSES[allowed], aware=True)
    values = np.zeros(5) if "writes" in allowed else np.arange(5.0)
    assert (status, output) == (0, f"{values.tolist()}\n")


def test_system_calls_get_an_error_and_no_bytes():
    x = guarded.put(numbers(5))
    with pytest.raises(OSError, match="Bad address"):
        os.write(os.memfd_create("anything"), (ctypes.c_char * x.nbytes).from_address(x.address))


REFUSED = {
    "asarray": np.asarray,
    "assignment to a host array": lambda x: np.zeros(5).__setitem__(slice(None), x),
    "memoryview": memoryview,
    "writing to a file": lambda x: io.BytesIO().write(x),
    "a host array on the right": lambda x: x + np.ones(5),
    "a host array on the left": lambda x: np.ones(5) * x,
    "a host array in place": lambda x: np.ones(5).__iadd__(x),
    "out on the host": lambda x: np.add(x, 1, out=np.ones(5)),
    "a sum with out on the host": lambda x: np.sum(x, out=np.ones(())),
    "a host array among others": lambda x: np.concatenate([x, np.ones(5)]),
    "a host array as one of three": lambda x: np.where(x > 0, x, np.ones(5)),
    "where on the host": lambda x: np.add(x, 1, out=x, where=np.ones(5, bool)),
    "a list": lambda x: np.add(x, [1, 2, 3, 4, 5]),
    "a tuple as values": lambda x: x.__setitem__(slice(0, 3), (1.0, 2, False)),
    "copyto to the host": lambda x: np.copyto(np.ones(5), x),
    "reduce of a ufunc": np.add.reduce,
    "a function that CuPy has not": lambda x: np.trim_zeros(np.setxor1d(x, x)),
    "ones, which hands over a device": lambda x: np.ones(5, like=x),
    "bfloat16": lambda x: x.astype(ml_dtypes.bfloat16),
    "a number of many": lambda x: float(x),
    "hashing": hash,
}


@pytest.mark.parametrize("way", REFUSED)
def test_nothing_becomes_a_host_array_by_itself(way):
    with pytest.raises(TypeError):
        REFUSED[way](guarded.put(numbers(5)))


def test_values_of_a_host_array_are_refused_and_put_or_set_instead():
    x = guarded.zeros(5, np.float32)
    with pytest.raises(ValueError, match=r"set\(\) and put\(\)"):
        x[:] = numbers(5)
    x.set(numbers(5))
    same(x, numbers(5))
    with pytest.raises(ValueError, match="cannot be put into"):
        x.set(numbers(5, dtype="float64"))


def test_flags_have_no_writeable():
    assert not hasattr(guarded.put(numbers(5)).flags, "writeable")


# Arithmetic, beside NumPy.

ROW, COLUMN = np.array([1, 0, 1]), np.array([3, 2, 0])
OPERATIONS = {
    "operators": lambda x: -x + x * 2 - x / 3 + 2.5 - 1 / x,
    "numbers of numpy": lambda x: np.float32(2) * x + np.int32(3) * x,
    "comparison": lambda x: (x > 0) & (x != x[0]) | ~(x <= 1),
    "equal to its view": lambda x: x == x[:1],
    "matrix product": lambda x: x[0] @ x[1].T,
    "vectors": lambda x: x[0, 0] @ x[1, 1],
    "functions": lambda x: np.exp(x) + np.log(abs(x)) + np.maximum(x, 0) + np.sqrt(x * x),
    "isfinite": lambda x: np.isfinite(x).all(),
    "sum": lambda x: x.sum(),
    "sum in float64": lambda x: x.sum(dtype=np.float64),
    "sums": lambda x: np.sum(x, axis=(0, 2)),
    "sum over rows": lambda x: x.sum(axis=1, keepdims=True),
    "mean": lambda x: x.mean(axis=(0, 1)),
    "max": lambda x: x.max(axis=1, keepdims=True),
    "min": lambda x: np.min(x),
    "argmax": lambda x: x.argmax(axis=1),
    "any": lambda x: (x > 0.9).any(axis=0),
    "count": lambda x: np.count_nonzero(x > 0, axis=0),
    "slice": lambda x: x[..., 1:3],
    "steps": lambda x: x[::-1, ::2],
    "element": lambda x: x[1, 2, 3],
    "newaxis": lambda x: x[:, np.newaxis],
    "ellipsis, newaxis": lambda x: x[..., np.newaxis],
    "mask": lambda x: x[x > 0],
    "rows": lambda x: x[ROW],
    "elements": lambda x: x[ROW, ROW, COLUMN],
    "reshape": lambda x: x.reshape(4, -1),
    "reshape of a transpose": lambda x: x.transpose(2, 0, 1).reshape(-1, 3),
    "ravel": lambda x: np.ravel(x.T),
    "T": lambda x: x.T,
    "swapaxes": lambda x: x.swapaxes(0, 2),
    "view": lambda x: x.view(np.uint32),
    "astype": lambda x: x.astype(np.float16),
    "copy": lambda x: x[:, 1].copy(),
    "repeat": lambda x: x.repeat(2, axis=1),
    "pad": lambda x: np.pad(x, ((0, 0), (1, 1), (2, 0))),
    "windows": lambda x: sliding_window_view(x, (2, 2), axis=(1, 2)).transpose(0, 2, 1, 4, 3).reshape(-1, 4),
    "split": lambda x: np.split(x.reshape(-1), [5, 9])[1],
    "cumsum": lambda x: np.cumsum(x),
    "concatenate": lambda x: np.concatenate([x, x[:1]]),
    "stack": lambda x: np.stack([x[0, 0], x[1, 1]]),
    "where": lambda x: np.where(x > 0, x, 0),
    "clip": lambda x: np.clip(x, -0.5, 0.5),
    "zeros_like": lambda x: np.zeros_like(x),
    "arange like": lambda x: np.arange(3, like=x) if isinstance(x, guarded.GuardedArray) else np.arange(3),
    "zeros like": lambda x: np.zeros((2, 3), np.float16, like=x if isinstance(x, guarded.GuardedArray) else None),
    "asarray like": lambda x: np.asarray(ROW, like=x) if isinstance(x, guarded.GuardedArray) else ROW,
    "array_equal": lambda x: np.array_equal(x, x.copy()),
    "linalg.norm": lambda x: np.linalg.norm(x.reshape(-1)),
    "overflow": lambda x: np.exp(x * 1000),
}


@pytest.mark.paired
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_device_arrays_compute_what_numpy_computes(operation, seed):
    x = numbers(2, 3, 4, seed=seed)
    with np.errstate(all="ignore"):
        wanted = OPERATIONS[operation](x)
    same(OPERATIONS[operation](guarded.put(x)), wanted)


def add(x):
    x += 1.5
    x *= x


def assign(x):
    x[0] = 3
    x[:, 1] = x[:, 2]
    x[1, :, 0] = x[0, 0, 1:]
    x[..., 3] = np.float64(7.5)


def assign_chosen(x):
    x[x > 0.7] = 9
    x[ROW, ROW, COLUMN] -= 1
    x[[1]] = x[0]


def into(x):
    np.multiply(x, 3, out=x)
    np.add(x[0], x[1], out=x[1])
    np.sum(x, axis=0, out=x[0])
    np.matmul(x[0].T, x[1], out=x.reshape(-1)[8:24].reshape(4, 4))
    np.maximum(x, 0, out=x, where=x > -1)


def fill(x):
    x[0].fill(4)
    np.copyto(x[1], 5)
    np.copyto(x[0, 0], x[1, 0])


@pytest.mark.parametrize("change", [add, assign, assign_chosen, into, fill])
@pytest.mark.parametrize("seed", range(5))
def test_device_arrays_change_as_those_of_numpy_do(change, seed):
    x = numbers(2, 3, 4, seed=seed)
    there = guarded.put(x)
    change(x)
    change(there)
    same(there, x)


def test_wrong_shapes_and_types_are_refused_at_once():
    x = guarded.put(numbers(2, 3))
    with guarded.stream() as stream, held(stream):
        for wrong, error in {
            lambda: x + guarded.put(numbers(4)): ValueError,
            lambda: x.reshape(4): ValueError,
            lambda: x.__setitem__(0, guarded.put(numbers(4))): ValueError,
            lambda: x.__setitem__([0, 1], guarded.put(numbers(4))): ValueError,
            lambda: x[5]: IndexError,
            lambda: x[[5]]: IndexError,
            lambda: np.add(x, 1, out=x[0]): ValueError,
            lambda: x.astype(int).__iadd__(x): TypeError,
        }.items():
            with pytest.raises(error):
                wrong()


def test_single_elements_become_numbers_and_arrays_lists():
    x = guarded.put(np.array([[3, 4]]))
    assert (int(x[0, 0]), float(x[0, 1]), bool(x[0, 0] > 5), x[0, 0].item()) == (3, 4.0, False, 3)
    assert ([0, 1, 2, 3][x[0, 0]], x.tolist(), len(x), [row.tolist() for row in x]) == (3, [[3, 4]], 1, [[3, 4]])


def test_pickles_hold_the_values():
    same(pickle.loads(pickle.dumps(guarded.put(numbers(7)))), numbers(7))


@pytest.mark.parametrize("model", MODELS)
def test_models_and_optimizer_run_on_the_device_with_numpys_bits(model):
    made = MODELS[model]((8, 6), 5)
    random = np.random.default_rng(3)
    x, y = random.random((16, 8, 6)).astype(np.float32), random.integers(0, 5, 16)
    results = []
    for put in (np.array, guarded.put):
        parameters, gradient = put(made.initialize(2)), put(np.zeros(made.size, np.float32))
        optimizer = SGD(parameters, momentum=0.9, weight_decay=0.01)
        losses = []
        for _ in range(3):
            loss, correct = made.loss_and_gradient(parameters, put(x), put(y), gradient)
            losses.append((float(loss), int(correct)))
            optimizer.step(gradient, 0.1)
        results.append((losses, parameters, optimizer.velocity))
    assert results[0][0] == results[1][0]
    same(results[1][1], results[0][1])
    same(results[1][2], results[0][2])


# Streams and events.


def test_results_are_late_and_an_event_makes_them_visible():
    x = guarded.zeros(5)
    x.get()
    with guarded.stream() as stream:
        with held(stream):
            x += 1
            event = stream.record()
            assert not event.done()
            assert (guarded.peek(x) == 0).all()
        event.wait()
        assert event.done()
    assert (guarded.peek(x) == 1).all()


def test_a_stream_that_follows_no_event_uses_old_values():
    made, used = guarded.put(numbers(5)), guarded.empty(5, np.float32)
    maker, user = DEVICE.stream(), DEVICE.stream()
    with held(maker):
        with guarded.stream(maker):
            made += 1
        user.copy(used, made)
        user.record().wait()
    maker.record().wait()
    same(used, numbers(5))
    same(made, numbers(5) + 1)


def test_a_stream_that_follows_the_event_uses_the_new_ones():
    made, used = guarded.put(numbers(5)), guarded.empty(5, np.float32)
    maker, user = DEVICE.stream(), DEVICE.stream()
    with held(maker):
        with guarded.stream(maker):
            made += 1
        user.follow(maker.record())
        user.copy(used, made)
        event = user.record()
        assert not event.done()
    event.wait()
    assert (guarded.peek(used) == numbers(5) + 1).all()


def test_get_waits_for_the_current_stream_only():
    x = guarded.zeros(3)
    x.get()
    with guarded.stream() as other, held(other):
        x += 1
        with guarded.stream():
            assert x.tolist() == [0, 0, 0]


def test_slow_work_delays_what_comes_after_it():
    stream, began = DEVICE.stream(), time.monotonic()
    guarded.slow(stream, 0.1)
    stream.record().wait()
    assert time.monotonic() - began >= 0.1


def test_targets_are_rubbish_before_they_are_written():
    """So a second run with the same values does not hide that somebody looks too early."""
    seen = []
    target = numbers(5)
    memory.write(target, numbers(5), lambda: seen.append(target.copy()))
    assert np.isnan(seen).all()
    assert (target == numbers(5)).all()


@pytest.mark.parametrize("make", [lambda: guarded.empty(64, "float16"), lambda: DEVICE.pinned(64, "float16")])
def test_new_memory_is_rubbish(make):
    for _ in range(3):
        array = make()
        assert np.isnan(guarded.peek(array) if isinstance(array, guarded.GuardedArray) else array).all()
        array[:] = 5
        guarded.current().record().wait()


def test_an_error_of_device_work_sticks_to_its_stream_and_those_that_follow():
    stream, follower, x = DEVICE.stream(), DEVICE.stream(), guarded.zeros(3)
    x.get()
    stream.submit(lambda: {}["no such key"])
    event = stream.record()
    follower.follow(event)
    with guarded.stream(follower):
        x += 1
    for failed in (event, stream.record(), follower.record()):
        for _ in range(2):
            with pytest.raises(guarded.DeviceFault, match="KeyError: 'no such key'"):
                failed.wait()
        with pytest.raises(guarded.DeviceFault):
            failed.done()
    assert (guarded.peek(x) == 0).all()
    DEVICE.stream().record().wait()


def test_an_index_out_of_bounds_on_the_device_is_an_error_of_the_stream():
    with guarded.stream():
        x = guarded.put(numbers(3))[guarded.put(np.array([3]))]
        with pytest.raises(guarded.DeviceFault, match="IndexError"):
            x.get()


def test_the_thread_of_a_stream_ends_with_it():
    before = set(threading.enumerate())
    stream = DEVICE.stream()
    (thread,) = set(threading.enumerate()) - before
    stream.record().wait()
    del stream
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()


def test_a_stream_without_work_keeps_nothing_alive():
    stream, x, freed = DEVICE.stream(), guarded.put(numbers(4)), threading.Event()
    weakref.finalize(x.memory, freed.set)
    with guarded.stream(stream):
        x += 1
    del x
    assert freed.wait(60)


def test_delays_are_those_of_the_seed(monkeypatch):
    slept = []
    monkeypatch.setattr("guarded.streams.time.sleep", slept.append)
    series = []
    for seed in ("1/0/0", "1/0/0", "2/0/0"):
        worker = _Worker(seed)
        for _ in range(300):
            worker.pause()
        series.append(slept[:])
        slept.clear()
    assert series[0] == series[1] != series[2]
    assert max(series[0]) == 0.005
    assert sorted(series[0])[len(series[0]) // 2] < 2e-4


# What streams do with buffers.


def put_somewhere(values, pinned):
    if not pinned:
        return guarded.put(values)
    there = DEVICE.pinned(values.size, values.dtype)
    there[:] = values
    return there


def host(array):
    return array.get() if isinstance(array, guarded.GuardedArray) else array


@pytest.mark.parametrize("to_pinned", [False, True])
@pytest.mark.parametrize("from_pinned", [False, True])
def test_copies_go_between_device_and_page_locked_memory(to_pinned, from_pinned):
    source, target = put_somewhere(numbers(9), from_pinned), put_somewhere(numbers(9) * 0, to_pinned)
    stream = DEVICE.stream()
    stream.copy(target[2:7], source[4:9])
    stream.record().wait()
    np.testing.assert_array_equal(host(target), [0, 0, *numbers(9)[4:9], 0, 0])


def test_copies_refuse_ordinary_host_memory_other_sizes_and_gaps():
    stream, x = DEVICE.stream(), guarded.put(numbers(6))
    with pytest.raises(ValueError, match="not in page-locked memory"):
        stream.copy(x, numbers(6))
    with pytest.raises(ValueError, match="not in page-locked memory"):
        stream.copy(numbers(6), x)
    with pytest.raises(ValueError, match="20 bytes cannot be copied to 24"):
        stream.copy(x, x[:5])
    with pytest.raises(ValueError, match="has gaps"):
        stream.copy(x[:3], x[::2])
    with pytest.raises(ValueError, match="has gaps"):
        stream.copy(DEVICE.pinned(6, "float32")[::2], x[:3])


@pytest.mark.paired(times=2)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["sum", "avg", "max", "min", "prod"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_combine_has_the_bits_of_the_kernels(op, dtype, count):
    rows = distinct(count, 50, dtype, op)
    sources = [put_somewhere(row, pinned=index % 3 == 1) for index, row in enumerate(rows)]
    targets = [DEVICE.empty(50, dtype), sources[-1], DEVICE.pinned(50, dtype)]
    stream = DEVICE.stream()
    stream.combine(op, targets, sources)
    stream.record().wait()
    wanted = combined("sum" if op == "avg" else op, rows)
    for target in targets:
        np.testing.assert_array_equal(bits(host(target)), bits(wanted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", ["sum", "max", "prod"])
def test_two_sources_have_the_bits_of_the_host_path(op, dtype):
    values = special if DTYPES[dtype].kind != "i" else distinct
    left, right = values(2, 200, dtype) if values is special else values(2, 200, dtype, op)
    both = np.isnan(left) & np.isnan(right)  # of two NaNs the left one stays, which NumPy does most of the time
    wanted = right.copy()
    with np.errstate(all="ignore"):
        combination(op, left, wanted, wanted)()
    target, sources = DEVICE.empty(200, dtype), [DEVICE.put(left), DEVICE.put(right)]
    stream = DEVICE.stream()
    stream.combine(op, [target], sources)
    stream.record().wait()
    np.testing.assert_array_equal(bits(target.get())[~both], bits(wanted)[~both])
    assert np.isnan(target.get().view(wanted.dtype)[both]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_average_has_the_bits_of_the_host_path(dtype):
    total = distinct(1, 99, dtype)[0]
    there = DEVICE.put(total)
    DEVICE.current().average(there, 3)
    average(total, 3)
    np.testing.assert_array_equal(bits(there.get()), bits(total))


def test_combine_refuses_what_kernels_refuse():
    x, y = DEVICE.put(numbers(4)), DEVICE.put(numbers(4))
    for targets, sources, reason in [
        ([x], [DEVICE.put(numbers(5))], "one type and size"),
        ([x], [DEVICE.put(numbers(4, dtype="float64"))], "one type and size"),
        ([x], [], "0 sources and 1 targets"),
        ([], [x], "1 sources and 0 targets"),
        ([x], [y] * 65, "65 sources"),
        ([x, x], [y], "targets share memory"),
        ([x[:2], y[:2]], [x[1:3], y[:2]], "but are not the same"),
    ]:
        with pytest.raises(ValueError, match=reason):
            DEVICE.current().combine("sum", targets, sources)
    with pytest.raises(ValueError, match="no operation 'xor'"):
        DEVICE.current().combine("xor", [x], [y])


# Memory.


def test_freed_memory_is_rubbish():
    x = guarded.put(numbers(1000))
    place, view = x.hidden, x[10:]
    del x
    assert (place == numbers(1000)).all()  # the view keeps it
    del view
    assert (place.view(np.uint8) == memory.FREED).all()


def test_freed_page_locked_memory_is_rubbish():
    x = DEVICE.pinned(10, "float32")
    x[:] = 3
    place = memory.reach(x)
    del x
    assert (place.view(np.uint8) == memory.FREED).all()


def test_arrays_that_are_computed_with_stay_until_then_but_copies_keep_nothing():
    source, target = guarded.put(numbers(1000)), guarded.empty(1000, np.float32)
    with guarded.stream() as stream:
        with held(stream):
            result = (source + 1) * 2
            stream.copy(target, source)
            del source
        same(result, (numbers(1000) + 1) * 2)
        assert (target.get().view(np.uint8) == memory.FREED).all()


def test_thousands_of_arrays_cost_no_file_descriptors_and_little_memory():
    keep = [guarded.empty(100) for _ in range(100)]
    before, end = len(os.listdir("/proc/self/fd")), memory.arena("device")._end
    for _ in range(50):
        again = [guarded.empty(100) for _ in range(100)]
        del again
    assert len(os.listdir("/proc/self/fd")) == before
    assert memory.arena("device")._end <= end + 101 * (100 * 8 + 2 * memory.PAGE)
    assert len({x.address for x in keep}) == 100


def test_a_forked_process_has_no_device_and_does_the_parent_no_harm():
    status, output = run(
        PREPARE + "import os\nchild = os.fork()\nif not child:\n"
        "    del x\n"
        "    try: guarded.empty(3)\n"
        "    except RuntimeError as error: os._exit(7 * ('forked' in str(error)))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), x.tolist())"
    )
    assert (status, output) == (0, "7 [0.0, 1.0, 2.0, 3.0, 4.0]\n")


# Other processes.

OPENER = """
import pickle, sys, threading, ctypes, numpy as np, guarded
for line in sys.stdin:
    share, order = pickle.loads(bytes.fromhex(line))
    try:
        y = guarded.SIMULATED.opened(share, np.float32)
        if order == "add":
            y += 1
        if order == "touch":
            ctypes.string_at(y.address, 4)
        if order == "close":
            guarded.SIMULATED.close()
        if order == "close too early":
            gate = threading.Event()
            guarded.current().submit(gate.wait)
            y = y + 1
            guarded.SIMULATED.close()
            gate.set()
        print(y.tolist(), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.fixture
def other(request):
    process = start(
        OPENER, getattr(request, "param", False), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    yield process
    process.stdin.close()
    process.wait()
    process.stdout.close()
    process.stderr.close()


def ask(process, share, order="read"):
    process.stdin.write(pickle.dumps((share, order)).hex() + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def test_another_process_opens_a_part_and_both_see_what_either_writes(other):
    x = guarded.put(numbers(9))
    share = DEVICE.share(x[2:6])
    assert (share.offset, share.nbytes) == (8, 16)
    assert ask(other, share) == str(numbers(9)[2:6].tolist())
    x[3] = 40
    x.get()
    assert ask(other, share, "add") == str([float(value + 1) for value in (numbers(9)[2], 40, *numbers(9)[4:6])])
    assert (guarded.peek(x)[:6] == [*numbers(9)[:2], numbers(9)[2] + 1, 41, *numbers(9)[4:6] + 1]).all()


def test_memory_of_another_process_that_was_freed_is_an_error(other):
    x = guarded.put(numbers(9))
    share = DEVICE.share(x)
    assert ask(other, share) == str(numbers(9).tolist())
    del x
    assert "was freed there" in ask(other, share)
    again = guarded.put(numbers(9))  # in the same place, but another allocation
    assert "was freed there" in ask(other, share)
    assert ask(other, DEVICE.share(again)) == str(numbers(9).tolist())


def test_memory_of_another_process_that_was_closed_is_an_error_and_can_be_opened_again(other):
    x = guarded.put(numbers(9))
    assert "after it was closed" in ask(other, DEVICE.share(x), "close")
    assert ask(other, DEVICE.share(x)) == str(numbers(9).tolist())


def test_memory_of_another_process_must_not_be_closed_while_work_is_under_way(other):
    assert ask(other, DEVICE.share(guarded.put(numbers(9))), "close too early") == ""
    assert other.wait() == -signal.SIGSEGV


def test_memory_of_another_process_is_as_closed_to_the_host_as_its_own(other):
    assert ask(other, DEVICE.share(guarded.put(numbers(9))), "touch") == ""
    assert other.wait() == -signal.SIGSEGV


@pytest.mark.parametrize("other", [True], indirect=True)
def test_in_aware_mode_it_is_open(other):
    x = guarded.put(numbers(9))
    assert ask(other, DEVICE.share(x), "touch") == str(numbers(9).tolist())


def test_a_process_that_has_ended_shares_nothing():
    status, output = run(
        PREPARE + "import pickle; print(pickle.dumps(guarded.SIMULATED.share(x)).hex())",
    )
    assert status == 0
    with pytest.raises(RuntimeError, match="cannot be opened"):
        DEVICE.opened(pickle.loads(bytes.fromhex(output)), np.float64)


def test_a_share_of_this_process_is_a_view():
    x = guarded.put(numbers(9))
    share = DEVICE.share(x)
    same(DEVICE.opened(DEVICE.share(x[3:]), np.float32), numbers(9)[3:])
    assert DEVICE.opened(share, np.float32).address == x.address
    assert DEVICE.share(x[4:]).allocation == share.allocation
    assert DEVICE.share(guarded.put(numbers(9))).allocation != share.allocation
    del x
    with pytest.raises(RuntimeError, match="freed"):
        DEVICE.opened(share, np.float32)


# The contract of hpcdist.device.


def test_arrays_are_known_once_installed():
    assert guarded.install() is DEVICE
    known = list(_FINDERS)
    assert guarded.install() is DEVICE
    assert known == _FINDERS
    assert accelerator_of(guarded.zeros(3)) is DEVICE
    assert accelerator_of(np.zeros(3)) is None
    assert accelerator_of(DEVICE.pinned(3, "float32")) is None


def test_page_locked_memory_is_an_ordinary_array():
    assert type(DEVICE.pinned(3, ml_dtypes.bfloat16)) is np.ndarray


def test_bfloat16_is_stored_as_uint16():
    values = distinct(1, 9, "bfloat16")[0]
    x = DEVICE.put(values)
    assert (x.dtype, DEVICE.dtype_of(x)) == (np.uint16, values.dtype)
    assert (DEVICE.get(x).view(values.dtype) == values).all()
    assert DEVICE.empty(3, "bfloat16").dtype == np.uint16
    assert DEVICE.dtype_of(guarded.zeros(3, "float16")) == np.float16


def test_nothing_is_moved_and_shared_without_elements():
    nothing = DEVICE.empty(0, "float32")
    assert DEVICE.unshareable(nothing) is None
    same(DEVICE.opened(DEVICE.share(nothing), "float32"), np.empty(0, np.float32))
    stream = DEVICE.stream()
    stream.copy(DEVICE.pinned(0, "float32"), nothing)
    stream.copy(nothing, np.empty(0, np.float32))
    stream.combine("sum", [nothing], [nothing, nothing])
    stream.record().wait()


def test_what_no_other_process_can_open_has_a_reason():
    x = guarded.pool_array(5)
    assert "pool" in DEVICE.unshareable(x[1:])
    with pytest.raises(ValueError, match="pool"):
        DEVICE.share(x)
    assert DEVICE.unshareable(guarded.empty(5)) is None


def test_what_is_no_communication_buffer_has_a_reason():
    problems = [
        DEVICE.problem_with("it", array, writable=True)
        for array in (guarded.zeros(3, "int8"), guarded.zeros((3, 4)).T, guarded.zeros((3, 4)), guarded.zeros(3, "u2"))
    ]
    assert "it has dtype int8" in problems[0]
    assert "it of shape (4, 3) is not contiguous" in problems[1]
    assert problems[2:] == [None, None]
