"""Bound programs on device memory by all three paths: the bits of the host's executor, whatever is late."""

import gc
import re
import threading
import time
import weakref

import guarded
import numpy as np
import pytest
from buffers import bits, check, distinct, special
from mpi4py import MPI

from hpcdist import algorithms
from hpcdist.device.paths import AWARE, PEER, STAGED
from hpcdist.executor import gpu_streams
from hpcdist.executor.bind import BoundProgram, boxes_for
from hpcdist.executor.intranode.gpu_peer_memory import PeerMemoryProgram
from hpcdist.kernels.reduce import DTYPES, OPS, average, binary
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.schedule.reach import reach
from hpcdist.transport import TransferError
from hpcdist.transport.cuda_ipc import IpcTransport
from hpcdist.transport.mpi import transport_of

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
LAST = SIZE - 1
DEVICE = guarded.install()
PATHS = [AWARE] if guarded.AWARE else [STAGED, PEER]
COUNTS = sorted({0, 1, SIZE - 1, SIZE, SIZE + 1, 37, 101})
TWO_NODES = [rank % 2 for rank in range(SIZE)]
NODES = {
    "one node": [0] * SIZE,
    "two nodes": [int(rank > SIZE // 2) for rank in range(SIZE)],
    "cyclic": [rank % 3 for rank in range(SIZE)],
    "a node each": list(range(SIZE)),
}
peer_only = pytest.mark.skipif(guarded.AWARE, reason="the path peer is tested where MPI takes no device memory")


@pytest.fixture
def transport():
    """The transport of a communicator that no other test uses."""
    comm = COMM.Dup()
    yield transport_of(comm)
    comm.Free()


@pytest.fixture(params=PATHS)
def path(request):
    return request.param


def named(name):
    return algorithms.allreduce(name, SIZE, TWO_NODES)


def bind(path, transport, schedule, buffer, segment=1 << 20, **how):
    """A schedule on device memory."""
    source = how.get("source")
    layout = Layout.near_equal(schedule, buffer.size, 0 if source is None else source.size)
    program = lower(schedule, RANK, layout, segment, path == STAGED, average=how.get("op") == "avg")
    carrier = IpcTransport(transport, DEVICE) if path == PEER else transport
    return BoundProgram(program, carrier, buffer, accelerator=DEVICE, **how)


def on_host(transport, schedule, values, segment=1 << 20, op="sum"):
    """What the same schedule makes of this rank's values in host memory."""
    result = values.copy()
    program = lower(schedule, RANK, Layout.near_equal(schedule, result.size), segment, average=op == "avg")
    BoundProgram(program, transport, result, op=op)()
    return result


def fill(buffer, values, late=0.0):
    """Have the device write values into a buffer, after a kernel that takes long."""
    if late:
        guarded.slow(guarded.current(), late)
    buffer[...] = guarded.put(values)


def after_run(buffer):
    """What a kernel sees that is started right after a run, in a stream of its own, which waits for nothing."""
    with guarded.stream():
        return (+buffer).get()


def number_bits(array):
    """Bits of host and device arrays alike."""
    return array.view(f"u{array.dtype.itemsize}")


# --- results ---


@pytest.mark.every_size
@pytest.mark.paired
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_the_bits_are_those_of_the_host(transport, path, name, dtype):
    schedule = named(name)
    for index, op in enumerate(OPS):
        count, segment = COUNTS[index - 1], (1 << 20, 7)[index % 2]
        values = distinct(SIZE, count, dtype, op)[RANK]
        wanted = on_host(transport, schedule, values, segment, op)
        buffer = guarded.put(np.zeros_like(values))
        program = bind(path, transport, schedule, buffer, segment, op=op)
        for _ in range(2):
            fill(buffer, values, late=0.002)
            program()
            np.testing.assert_array_equal(number_bits(after_run(buffer)), bits(wanted))
        program.free()


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_every_count_in_place_and_out_of_place(transport, path, name):
    schedule = named(name)
    for count in COUNTS:
        values = distinct(SIZE, count, "int64")
        buffer, out = guarded.put(values[RANK]), guarded.put(np.full(count, -1))
        for program, result in (
            (bind(path, transport, schedule, out, 5, copy_from=buffer), out),
            (bind(path, transport, schedule, buffer, 5), buffer),
        ):
            fill(buffer, values[RANK])
            program()
            np.testing.assert_array_equal(after_run(result), values.sum(axis=0))
            if result is out:
                np.testing.assert_array_equal(after_run(buffer), values[RANK])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_zeros_of_both_signs_infinities_and_nans_end_the_same_on_all_ranks(transport, path, dtype):
    for name in ("ring", "recursive_doubling", "direct"):
        for op in OPS:
            buffer = guarded.put(special(SIZE, 97, dtype)[RANK])
            bind(path, transport, named(name), buffer, 10, op=op)()
            result = number_bits(after_run(buffer))
            np.testing.assert_array_equal(result, COMM.bcast(result))


def test_the_relatives_of_all_reduce_work_too(transport, path):
    values = distinct(SIZE, 3 * SIZE, "int64")
    total = values.sum(axis=0)
    source, out = guarded.put(values[RANK]), guarded.put(np.full(3 * SIZE, -1))
    bind(path, transport, algorithms.pairwise(SIZE), out, 2, source=source)()
    np.testing.assert_array_equal(after_run(out), values.reshape(SIZE, SIZE, 3)[:, RANK].ravel())
    buffer = guarded.put(values[RANK])
    bind(path, transport, algorithms.reduce_scatter("ring", SIZE), buffer, 2, op="avg")()
    mine = slice(3 * RANK, 3 * RANK + 3)
    check(after_run(buffer)[mine], values[:, mine], "avg")
    buffer = guarded.put(values[RANK])
    bind(path, transport, algorithms.bcast(SIZE, LAST), buffer, 2)()
    np.testing.assert_array_equal(after_run(buffer), values[LAST])
    buffer = guarded.put(values[RANK])
    bind(path, transport, algorithms.reduce(SIZE, LAST), buffer, 2)()
    if RANK == LAST:
        np.testing.assert_array_equal(after_run(buffer), total)


def test_large_messages_go_in_segments(transport, path):
    """Beyond what an MPI buffers: a send is complete only when it was received."""
    values = distinct(SIZE, 100_003, "int64")
    buffer = guarded.put(values[RANK])
    for name in ("ring", "halving_doubling"):
        fill(buffer, values[RANK], late=0.005)
        bind(path, transport, named(name), buffer, 9973)()
        np.testing.assert_array_equal(after_run(buffer), values.sum(axis=0))


# --- the caller's work ---


def test_an_inbox_is_given_when_queued_work_no_longer_uses_its_memory():
    """A pool gives away what queued work still reads; a receive does not go behind that."""
    schedule = algorithms.allreduce("ring", 2, [0, 0])
    program = lower(schedule, 0, Layout.near_equal(schedule, 100), 1 << 20)
    guarded.slow(guarded.current(), 0.2)
    earlier = guarded.current().record()
    inbox = boxes_for(program, np.float64, DEVICE)
    assert inbox.size == program.inbox
    assert earlier.done()


def test_a_run_comes_after_what_the_caller_has_submitted_and_all_of_it_is_done_at_the_end(transport, path):
    """The caller's kernels are slow on one rank, and no stream of the caller's is waited for in between."""
    values = distinct(SIZE, 1000, "float64")
    for name in ("ring", "recursive_doubling", "tree"):
        buffer = guarded.put(np.zeros(1000))
        program = bind(path, transport, named(name), buffer, 100)
        for run in range(6):
            fill(buffer, values[RANK] * (run + 1), late=0.02 if run % SIZE == RANK else 0)
            program()
            check(after_run(buffer), values * (run + 1), "sum")


def test_the_callers_stream_is_the_one_it_has_when_a_run_starts(transport, path):
    values = distinct(SIZE, 500, "int64")
    buffer = guarded.put(np.zeros(500, np.int64))
    program = bind(path, transport, named("halving_doubling"), buffer)
    for _ in range(4):
        with guarded.stream():
            fill(buffer, values[RANK], late=0.01)
            program()
        np.testing.assert_array_equal(after_run(buffer), values.sum(axis=0))


def test_an_input_is_read_when_it_was_made_and_the_last_result_is_used_before_it_is_overwritten(transport, path):
    values = distinct(SIZE, 700, "int64")
    buffer, out = guarded.put(np.zeros(700, np.int64)), guarded.put(np.zeros(700, np.int64))
    program = bind(path, transport, named("ring"), out, 50, copy_from=buffer)
    seen = []
    for run in range(1, 5):
        fill(buffer, values[RANK] * run, late=0.005)
        program()
        guarded.slow(guarded.current(), 0.005)
        seen.append(+out)  # read late, by a kernel that the next run must wait for
    for run, result in enumerate(seen, 1):
        np.testing.assert_array_equal(result.get(), values.sum(axis=0) * run)


@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_runs_started_and_polled_end_as_blocking_ones(transport, path, name):
    values = distinct(SIZE, 3001, "int64")
    buffer = guarded.put(np.zeros(3001, np.int64))
    program = bind(path, transport, named(name), buffer, 300)
    for run in range(4):
        fill(buffer, values[RANK], late=0.003)
        if (run + RANK) % 2:
            program.start()
            while run % 3 and not program.test():
                pass
            program.wait()
        else:
            program()
        assert program.test()
        np.testing.assert_array_equal(after_run(buffer), values.sum(axis=0))


def test_plans_in_flight_together_do_not_mix(transport, path):
    names = algorithms.ALLREDUCE
    values = distinct(SIZE, 60 * len(names), "int64").reshape(SIZE, len(names), 60)
    buffers = [guarded.put(np.zeros(60, np.int64)) for _ in names]
    programs = [
        bind(path, transport, named(name), buffer, 7, tag=transport.take_tag())
        for name, buffer in zip(names, buffers, strict=True)
    ]
    for turn in range(3):
        for number in np.roll(range(len(names)), RANK + turn):
            fill(buffers[number], values[RANK, number], late=0.002)
            programs[number].start()
        unfinished = list(programs)
        while unfinished:
            unfinished = [program for program in unfinished if not program.test()]
        for number, buffer in enumerate(buffers):
            np.testing.assert_array_equal(after_run(buffer), values[:, number].sum(axis=0))


# --- memory ---


def test_a_run_allocates_nothing_and_makes_no_stream(transport, path, monkeypatch):
    buffer = guarded.put(np.zeros(1000))
    program = bind(path, transport, named("ring"), buffer, 50, op="avg")
    program()

    def refuse(*_):
        raise AssertionError("allocated in a run")

    for name in ("empty", "pinned", "put", "stream"):
        monkeypatch.setattr(guarded.Simulated, name, refuse)
    program()


def test_a_plan_given_up_lets_go_of_its_memory_at_once(transport, path):
    buffer = guarded.put(np.zeros(1000))
    program = bind(path, transport, named("recursive_doubling"), buffer)
    program()
    kept = [weakref.ref(buffer.memory), weakref.ref(program.inbox)]
    program.free()
    del buffer
    assert [reference() for reference in kept] == [None, None]
    with pytest.raises(RuntimeError, match="it was closed"):
        program()


def test_bindings_that_never_run_together_share_their_boxes(transport, path):
    values = distinct(SIZE, 300, "int64")
    buffers = [guarded.put(np.zeros(300, np.int64)) for _ in range(2)]
    schedule = named("recursive_doubling")
    program = lower(schedule, RANK, Layout.near_equal(schedule, 300), 50, staged=path == STAGED)
    inbox = boxes_for(program, np.int64, DEVICE)
    programs = [bind(path, transport, schedule, buffer, 50, inbox=inbox) for buffer in buffers]
    for program, buffer in zip(programs * 3, buffers * 3, strict=True):
        fill(buffer, values[RANK])
        program()
        np.testing.assert_array_equal(after_run(buffer), values.sum(axis=0))


@pytest.mark.mpi(min_size=2)
def test_a_plan_given_up_while_it_runs_keeps_its_memory(path):
    comm = COMM.Dup()
    transport = transport_of(comm)
    buffer = guarded.put(np.zeros(5000))
    program = bind(path, transport, named("ring"), buffer, 100)
    kept = weakref.ref(buffer.memory)
    guarded.slow(guarded.current(), 0.05)
    program.start()
    program.free()
    del buffer, program
    assert kept() is not None
    time.sleep(0.06)
    COMM.Barrier()
    values = distinct(SIZE, 500, "int64")  # others go on as if nothing were
    buffer = guarded.put(values[RANK])
    bind(path, transport, named("ring"), buffer, tag=5)()
    np.testing.assert_array_equal(after_run(buffer), values.sum(axis=0))


# --- faults ---


def test_a_fault_of_the_device_is_the_error_of_the_run(transport, path):
    buffer = guarded.put(np.zeros(100))
    program = bind(path, transport, named("ring"), buffer)

    def fail():
        raise ValueError("an address that is none")

    guarded.current()
    with guarded.stream() as stream:
        stream.submit(fail)
        with pytest.raises(guarded.DeviceFault, match="an address that is none"):
            program()
    with pytest.raises(RuntimeError, match="cannot run: its last run ended with DeviceFault"):
        program()


def test_a_device_without_working_kernels_is_an_error_when_a_plan_is_bound(transport, path, monkeypatch):
    monkeypatch.setattr(gpu_streams, "_PREPARED", set())
    for name, op in (("combine", "sum"), ("average", "avg")):
        with monkeypatch.context() as broken:
            broken.setattr(guarded.Stream, name, lambda *arguments: 1 / 0)
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    bind(path, transport, named("ring"), guarded.put(np.zeros(100)), op=op)
        bind(path, transport, named("ring"), guarded.put(np.zeros(100)), op=op)()


@pytest.mark.mpi(min_size=2)
def test_ranks_with_different_counts_hear_of_it(path):
    """Which the collectives refuse before they bind anything."""
    pair = COMM.Split(0 if RANK < 2 else MPI.UNDEFINED)
    if pair == MPI.COMM_NULL:
        return
    program = bind(path, transport_of(pair), algorithms.bcast(2, 0), guarded.put(np.zeros(4 + RANK)))
    if RANK == 0 and path != PEER:
        program()
        return
    said = "rank 0 sent 32 bytes where 40 were due" if RANK else "rank 1 does not take 32 bytes where 40 are due"
    with pytest.raises(TransferError, match=said):
        program()
    with pytest.raises(RuntimeError, match="cannot run: its last run ended with"):
        program()


@peer_only
@pytest.mark.mpi(min_size=2)
def test_a_sender_hears_that_its_bytes_are_refused(transport):
    if RANK > 1:
        return
    memory, carrier = guarded.put(np.zeros(4 + RANK)), IpcTransport(transport, DEVICE)
    request = carrier.receive(memory, 0, 7) if RANK else carrier.send(memory, 1, 7)
    request.start()
    said = "rank 0 sent 32 bytes where 40 were due" if RANK else "rank 1 does not take 32 bytes where 40 are due"
    with pytest.raises(TransferError, match=said):
        request.wait()


@peer_only
@pytest.mark.mpi(min_size=2)
def test_messages_of_a_pair_are_answered_in_their_order(transport):
    """The receiver asks for the second first; the sender overwrites the first when it is told that it may."""
    if RANK > 1:
        return
    values, carrier = distinct(2, 1000, "int64"), IpcTransport(transport, DEVICE)
    buffers = [guarded.put(row) for row in values]
    for _ in range(10):
        if RANK == 0:
            sends = [carrier.send(buffer, 1, 7) for buffer in buffers]
            for row, buffer, send in zip(values, buffers, sends, strict=True):
                buffer[...] = guarded.put(row)
                guarded.current().record().wait()
                send.start()
            sends[0].wait()
            buffers[0][...] = -1
            sends[1].wait()
        else:
            receives = [carrier.receive(buffer, 0, 7) for buffer in buffers]
            for receive in receives:
                receive.start()
            receives[1].wait()
            receives[0].wait()
            for row, buffer in zip(values, buffers, strict=True):
                np.testing.assert_array_equal(after_run(buffer), row)


# --- the watchdog ---


@pytest.mark.mpi(min_size=2)
def test_who_is_waited_for_is_told(transport, path, tmp_path):
    """Rank 0 waits in its run for the last rank, which waits for what a thread of rank 0 writes down."""
    seen = COMM.bcast(tmp_path / "seen")
    buffer = guarded.put(np.zeros(10))
    program = bind(path, transport, algorithms.direct(SIZE), buffer)
    assert program.progress() is None

    def look():
        while program.progress() is None or not re.search(f"(from|to) rank {LAST}$", program.describe()):
            time.sleep(0.001)
        seen.with_suffix(".new").write_text(program.describe())
        seen.with_suffix(".new").rename(seen)

    if RANK == 0:
        threading.Thread(target=look).start()
    while RANK == LAST and not seen.exists():
        time.sleep(0.001)
    program()
    assert f"rank 0 of {SIZE} in direct (sum, float64, 80 bytes, run 1), step 0 of 2: " in seen.read_text()
    assert program.progress() is None
    assert "between two runs" in program.describe()


def test_a_run_that_waits_for_the_callers_work_says_so(transport, path):
    buffer = guarded.put(np.zeros(10))
    program = bind(path, transport, named("ring"), buffer)
    guarded.slow(guarded.current(), 0.3)
    program.start()
    assert program.describe().endswith("waits for earlier work on its device")
    program.wait()


# --- the ranks of a node in each other's memory ---


def shared_program(transport, buffer, out, op="sum", algorithm="shared", topology=NODES["one node"]):
    """In memory that all ranks reach, whatever the topology says: that only shapes the schedule."""
    schedule = algorithms.allreduce(algorithm, SIZE, topology)
    layout = Layout.near_equal(schedule, out.size)
    everybody = reach(schedule, range(SIZE))
    program = lower(schedule, RANK, layout, 50, average=op == "avg", reachable=everybody, reads_input=out is not buffer)
    return PeerMemoryProgram(program, transport, buffer, out, op, transport.take_tag())


def in_order(values, op):
    """What one rank computes for all: the rows one after the other, sums of 16-bit types in float32, then rounded."""
    wide = values.dtype if values.itemsize > 2 or op in ("max", "min") else np.dtype(np.float32)
    with np.errstate(all="ignore"):
        total = values[0].astype(wide)
        for row in values[1:]:
            total = binary(op)(total, row.astype(wide))
        total = total.astype(values.dtype)
        if op == "avg":
            average(total, len(values))
    return total


@peer_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_shared_gives_the_ranks_in_order_bit_for_bit(transport, dtype):
    for index, count in enumerate([*COUNTS, 5003]):
        for op in OPS if count in (37, 5003) else OPS[index % 5 :][:1]:
            values = distinct(SIZE, count, dtype, op)
            buffer, out = guarded.put(np.zeros_like(values[0])), guarded.put(np.zeros_like(values[0]))
            for result in (out, buffer):
                program = shared_program(transport, buffer, result, op)
                for _ in range(2):
                    fill(buffer, values[RANK], late=0.002 * (count % SIZE == RANK))
                    program()
                    np.testing.assert_array_equal(number_bits(after_run(result)), bits(in_order(values, op)))
                    if result is out:
                        np.testing.assert_array_equal(number_bits(after_run(buffer)), bits(values[RANK]))
                program.free()


@pytest.mark.paired(times=2)
@peer_only
@pytest.mark.parametrize("topology", NODES.values(), ids=NODES)
@pytest.mark.parametrize("algorithm", ["shared", "shared:tree", "ring", "recursive_doubling", "binary_blocks"])
def test_any_schedule_runs_in_memory_of_peers(transport, topology, algorithm):
    for op, dtype, count in (
        ("sum", "int64", 2011),
        ("avg", "float32", 5),
        ("prod", "bfloat16", 100),
        ("avg", "int32", 9),
    ):
        values = distinct(SIZE, count, dtype, op)
        buffer, out = guarded.put(np.zeros_like(values[0])), guarded.put(np.zeros_like(values[0]))
        for result in (out, buffer):
            program = shared_program(transport, buffer, result, op, algorithm, topology)
            for _ in range(2):
                fill(buffer, values[RANK], late=0.002)
                program()
                found = after_run(result).view(values.dtype)
                check(found, values, op)
                np.testing.assert_array_equal(bits(found), COMM.bcast(bits(found)))


@peer_only
def test_shared_runs_back_to_back_see_no_value_of_another_run(transport):
    values = distinct(SIZE, 5000, "int64")
    buffer, total = guarded.put(np.zeros(5000, np.int64)), values.sum(axis=0)
    program = shared_program(transport, buffer, buffer)
    for run in range(1, 25):
        fill(buffer, values[RANK] * run, late=0.004 * (run % SIZE == RANK))
        program()
        found = +buffer
        buffer[...] = -1  # at once: no other rank may still read, or write
        np.testing.assert_array_equal(found.get(), total * run)


@peer_only
def test_shared_runs_started_and_polled_end_as_blocking_ones(transport):
    values = distinct(SIZE, 4000, "int64").reshape(SIZE, 4, 1000)
    buffers = [guarded.put(np.zeros(1000, np.int64)) for _ in range(4)]
    programs = [shared_program(transport, buffer, buffer) for buffer in buffers]
    for turn in range(5):
        for number in np.roll(range(4), RANK + turn):
            fill(buffers[number], values[RANK, number], late=0.002)
            programs[number].start()
        unfinished = list(programs)
        while unfinished:
            unfinished = [program for program in unfinished if not program.test()]
        for number, buffer in enumerate(buffers):
            np.testing.assert_array_equal(after_run(buffer), values[:, number].sum(axis=0))
    assert not programs[0].running


@peer_only
@pytest.mark.mpi(min_size=2)
def test_nothing_shared_is_complete_before_all_ranks_have_started(transport):
    buffer = guarded.put(np.full(100, RANK))
    program = shared_program(transport, buffer, buffer)
    if RANK != LAST:
        program.start()
        assert not any(program.test() for _ in range(100))
        with pytest.raises(RuntimeError, match="still running"):
            program()
    COMM.Barrier()
    if RANK == LAST:
        program.start()
    program.wait()
    assert (after_run(buffer) == SIZE * LAST // 2).all()


@peer_only
@pytest.mark.mpi(min_size=2)
def test_a_rank_that_waits_for_a_device_lets_its_messages_go_on(transport):
    """The others get rank 0's large message only while MPI has its turn there."""
    big = np.arange(1 << 20) + (RANK == 0)
    buffer = guarded.put(np.ones(10))
    program = shared_program(transport, buffer, buffer)
    requests = [COMM.Isend(big, rank) for rank in range(1, SIZE)] if RANK == 0 else []
    if RANK:
        COMM.Recv(big, 0)
        assert big[-1] == 1 << 20
    program()
    MPI.Request.Waitall(requests)
    assert (after_run(buffer) == SIZE).all()


@peer_only
def test_a_shared_plan_given_up_lets_go_of_its_memory_but_not_while_it_runs(transport):
    buffer, other = guarded.put(np.zeros(100)), guarded.put(np.zeros(100))
    kept = [weakref.ref(array.memory) for array in (buffer, other)]
    programs = [shared_program(transport, array, array) for array in (buffer, other)]
    programs[0]()
    programs[0].free()
    guarded.slow(guarded.current(), 0.01)
    programs[1].start()
    running = programs[1].running
    programs[1].free()
    del buffer, other
    assert [reference() is None for reference in kept] == [True, not running]
    with pytest.raises(RuntimeError, match="it was closed"):
        programs[0]()
    COMM.Barrier()


@peer_only
def test_a_shared_run_that_failed_keeps_its_memory_even_if_nobody_else_does(transport, monkeypatch):
    buffer = guarded.put(np.zeros(100))
    program, kept = shared_program(transport, buffer, buffer), weakref.ref(buffer.memory)
    monkeypatch.setattr(guarded.Stream, "combine", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        program()
    del program, buffer
    gc.collect()
    assert kept() is not None
    COMM.Barrier()


@peer_only
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("topology", [NODES["one node"], NODES["two nodes"]], ids=["one node", "two nodes"])
def test_who_is_waited_for_in_shared_memory_is_told(transport, tmp_path, topology):
    seen = COMM.bcast(tmp_path / "seen")
    buffer = guarded.put(np.zeros(10))
    program = shared_program(transport, buffer, buffer, topology=topology)

    def look():
        while program.progress() is None or not re.search("its input ready", program.describe()):
            time.sleep(0.001)
        seen.with_suffix(".new").write_text(program.describe())
        seen.with_suffix(".new").rename(seen)

    if RANK == 0:
        threading.Thread(target=look).start()
    while RANK == LAST and not seen.exists():
        time.sleep(0.001)
    program()
    assert f"rank 0 of {SIZE} in shared (sum, float64, run 1), step" in seen.read_text()
    assert program.progress() is None
    assert "between two runs" in program.describe()


def test_peer_memory_is_for_device_memory(transport):
    with pytest.raises(ValueError, match="this array is in host memory"):
        shared_program(transport, np.zeros(4), np.zeros(4))
