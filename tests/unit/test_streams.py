"""The runner for device memory on ranks as threads, staged through host memory, with a simulated device."""

import gc
import threading
import weakref

import guarded
import numpy as np
import pytest
from buffers import bits, distinct

from hpcdist import algorithms
from hpcdist.executor.bind import BoundProgram
from hpcdist.executor.gpu_streams import prepare
from hpcdist.kernels.reduce import DTYPES, OPS
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.transport import TransferError
from hpcdist.transport.threads import ThreadWorld

DEVICE = guarded.install()
FIRST = guarded.put([0]), DEVICE.pinned(1, "int64")  # one thread makes the device's memory, before many use it
for operation in OPS:
    for kind in DTYPES.values():
        prepare(DEVICE, operation, kind)  # so that what is counted, or broken, below is of runs and not of binding


def bind(schedule, transport, buffer, segment=1 << 20, **how):
    """This rank's part of `schedule`, bound to device memory."""
    source = how.get("source")
    layout = Layout.near_equal(schedule, buffer.size, 0 if source is None else source.size)
    program = lower(schedule, transport.rank, layout, segment, staged=True, average=how.get("op") == "avg")
    return BoundProgram(program, transport, buffer, accelerator=DEVICE, **how)


def run(schedule, values, *, op="sum", segment=1 << 20, eager=0, runs=1):
    """Run on copies of `values` [size, count], made late; every rank's result [size, count]."""

    def rank_main(transport):
        buffer = guarded.put(np.zeros_like(values[0]))
        program = bind(schedule, transport, buffer, segment, op=op)
        with guarded.stream():
            for _ in range(runs):
                guarded.slow(guarded.current(), 0.002)
                buffer[...] = guarded.put(values[transport.rank])
                program()
                buffer = +buffer if runs == 1 else buffer
            return buffer.get().view(values.dtype)

    return np.array(ThreadWorld(schedule.size, eager).run(rank_main))


def on_host(schedule, values, *, op="sum", segment=1 << 20):
    """What the same schedule makes of host memory."""
    results = values.copy()

    def rank_main(transport):
        layout = Layout.near_equal(schedule, values.shape[1])
        program = lower(schedule, transport.rank, layout, segment, average=op == "avg")
        BoundProgram(program, transport, results[transport.rank], op=op)()

    ThreadWorld(schedule.size).run(rank_main)
    return results


def two_per_node(size):
    return [rank % ((size + 1) // 2) for rank in range(size)]


# --- results ---


@pytest.mark.paired(times=3)
@pytest.mark.parametrize("eager", [0, 1 << 30], ids=["unbuffered", "buffered"])
@pytest.mark.parametrize("size", range(1, 10))
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_every_rank_gets_the_sum(name, size, eager):
    schedule = algorithms.allreduce(name, size, two_per_node(size))
    for count in {0, 1, size - 1, 3 * size + 1} if size < 6 else {3 * size + 1}:
        values = distinct(size, count, "int64")
        results = run(schedule, values, eager=eager, segment=2)
        np.testing.assert_array_equal(results, np.broadcast_to(values.sum(axis=0), results.shape))


@pytest.mark.paired
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", algorithms.ALLREDUCE)
def test_the_bits_are_those_of_the_host(name, dtype):
    schedule = algorithms.allreduce(name, 5, two_per_node(5))
    for op in OPS:
        values = distinct(5, 31, dtype, op)
        np.testing.assert_array_equal(
            bits(run(schedule, values, op=op, segment=4)), bits(on_host(schedule, values, op=op))
        )


def test_a_staged_program_runs_on_host_memory_too():
    values = distinct(4, 23, "float32")
    schedule = algorithms.halving_doubling(4)

    def rank_main(transport):
        buffer = values[transport.rank].copy()
        program = lower(schedule, transport.rank, Layout.near_equal(schedule, 23), 3, staged=True)
        BoundProgram(program, transport, buffer)()
        return buffer

    np.testing.assert_array_equal(ThreadWorld(4).run(rank_main), on_host(schedule, values))


def test_alltoall_reads_the_input_and_leaves_it_alone():
    values = distinct(4, 12, "int64")

    def rank_main(transport):
        source, out = guarded.put(values[transport.rank]), guarded.put(np.full(12, -1))
        program = bind(algorithms.pairwise(4), transport, out, 2, source=source)
        program()
        return guarded.peek(source), guarded.peek(out)

    for rank, (source, out) in enumerate(ThreadWorld(4).run(rank_main)):
        np.testing.assert_array_equal(source, values[rank])
        np.testing.assert_array_equal(out, values.reshape(4, 4, 3)[:, rank].ravel())


# --- the order of things ---


def late_copies(monkeypatch, to_host):
    """Let every copy into host memory, or every one out of it, take long."""
    copy = guarded.Stream.copy

    def slow_copy(stream, target, source):
        if isinstance(target if to_host else source, np.ndarray):
            guarded.slow(stream, 0.01)
        copy(stream, target, source)

    monkeypatch.setattr(guarded.Stream, "copy", slow_copy)


@pytest.mark.parametrize("to_host", [True, False])
@pytest.mark.parametrize("name", ["recursive_doubling", "ring", "tree"])
def test_work_in_one_stream_waits_for_what_it_needs_of_another(name, to_host, monkeypatch):
    """What is copied out must not be overwritten before, and what is copied in is not there at once."""
    late_copies(monkeypatch, to_host)
    values = distinct(4, 20, "int64")
    results = run(algorithms.allreduce(name, 4), values, segment=3, runs=2)
    np.testing.assert_array_equal(results, np.broadcast_to(values.sum(axis=0), results.shape))


@pytest.mark.parametrize("out_of_place", [False, True])
def test_what_is_received_is_not_overwritten_by_what_the_caller_did_before(out_of_place):
    """The message is here long before the receiver's kernel has written what the message replaces."""

    def rank_main(transport):
        source, out = guarded.put(np.zeros(5, np.int64)), guarded.put(np.zeros(5, np.int64))
        buffer = out if out_of_place else source
        program = bind(algorithms.bcast(2, 0), transport, buffer, **({"copy_from": source} if out_of_place else {}))
        with guarded.stream():
            guarded.slow(guarded.current(), 0.03 * transport.rank)
            source[...] = guarded.put(np.full(5, 7 - transport.rank))
            program()
            return buffer.get()

    np.testing.assert_array_equal(ThreadWorld(2).run(rank_main), np.full((2, 5), 7))


def test_nothing_is_sent_before_the_callers_work_is_done_but_all_that_can_be_is_submitted(monkeypatch):
    gate, combined = threading.Event(), []
    combine = guarded.Stream.combine

    def noted(stream, op, targets, sources):
        combined.append(gate.is_set())
        combine(stream, op, targets, sources)

    monkeypatch.setattr(guarded.Stream, "combine", noted)
    world = ThreadWorld(2)

    def rank_main(transport):
        buffer = guarded.put(np.zeros(6, np.int64))
        program = bind(algorithms.recursive_doubling(2), transport, buffer)
        with guarded.stream() as stream:
            if transport.rank == 0:
                stream.submit(gate.wait)
            buffer[...] = guarded.put(np.full(6, transport.rank + 1))
            program.start()
            while transport.rank == 0 and not combined:
                assert not program.test()
                assert not world.sent[0, 1, 0]
            gate.set() if transport.rank == 0 else None
            program.wait()
        return guarded.peek(buffer)

    np.testing.assert_array_equal(world.run(rank_main), np.full((2, 6), 3))
    assert combined[0] is False


def test_a_run_is_complete_only_when_the_device_has_done_its_last_work(monkeypatch):
    average = guarded.Stream.average

    def late(stream, total, size):
        guarded.slow(stream, 0.02)
        average(stream, total, size)

    monkeypatch.setattr(guarded.Stream, "average", late)

    def rank_main(transport):
        buffer = guarded.put(np.full(7, 5 * transport.rank))
        bind(algorithms.ring(3), transport, buffer, op="avg")()
        return guarded.peek(buffer)

    np.testing.assert_array_equal(ThreadWorld(3).run(rank_main), np.full((3, 7), 5))


def test_the_device_is_asked_for_no_more_events_than_somebody_waits_for(monkeypatch):
    """A rank that only receives needs none for its copies into the buffer: one for all of them, at the end."""
    records = {0: 0, 1: 0}
    record, here = guarded.Stream.record, threading.local()

    def noted(stream):
        records[here.rank] += 1
        return record(stream)

    def rank_main(transport):
        here.rank = transport.rank
        bind(algorithms.bcast(2, 0), transport, guarded.put(np.zeros(100)), 10)()

    monkeypatch.setattr(guarded.Stream, "record", noted)
    ThreadWorld(2).run(rank_main)
    around = 4  # the caller's, the begin, and the end of two streams
    assert records[1] <= around < records[0] <= around + 10


# --- errors and the end ---


def test_a_message_of_the_wrong_length_is_an_error_that_names_both_lengths():
    def rank_main(transport):
        program = bind(algorithms.bcast(2, 0), transport, guarded.put(np.zeros(4 + transport.rank)))
        if transport.rank == 0:
            program()
            return
        with pytest.raises(TransferError, match="rank 0 sent 32 bytes where 40 were due"):
            program()
        for again in (program, program.start, program.test, program.wait):
            with pytest.raises(RuntimeError, match="cannot run: its last run ended"):
                again()

    ThreadWorld(2).run(rank_main)


def test_a_fault_of_the_device_is_the_error_of_the_run(monkeypatch):
    def broken(stream, target, source):
        stream.submit(lambda: 1 / 0)

    monkeypatch.setattr(guarded.Stream, "copy", broken)
    (transport,) = ThreadWorld(1).run(lambda transport: transport)
    program = bind(algorithms.ring(1), transport, guarded.put(np.zeros(3)), copy_from=guarded.put(np.zeros(3)))
    with pytest.raises(guarded.DeviceFault, match="division by zero"):
        program()
    with pytest.raises(RuntimeError, match="cannot run: its last run ended with DeviceFault"):
        program()


def test_a_failed_run_keeps_its_memory_even_if_nobody_else_does(monkeypatch):
    monkeypatch.setattr(guarded.Stream, "copy", lambda stream, target, source: 1 / 0)
    (transport,) = ThreadWorld(1).run(lambda transport: transport)
    buffer = guarded.put(np.zeros(3))
    program = bind(algorithms.ring(1), transport, buffer, copy_from=guarded.put(np.zeros(3)))
    kept = weakref.ref(buffer.memory)
    with pytest.raises(ZeroDivisionError):
        program()
    del program, buffer
    gc.collect()
    assert kept() is not None


@pytest.mark.parametrize("op", ["sum", "avg"])
def test_a_program_given_up_lets_go_of_its_memory_at_once(op):
    arrays = [guarded.put(np.zeros(4)), guarded.put(np.zeros(4))]

    def rank_main(transport):
        return bind(algorithms.ring(2), transport, *arrays[:1], copy_from=arrays[1], op=op) if transport.rank else None

    program = ThreadWorld(2).run(rank_main)[1]
    kept = [weakref.ref(array.memory) for array in arrays] + [weakref.ref(program.inbox)]
    gc.disable()
    try:
        program.free()
        arrays.clear()
        assert [reference() for reference in kept] == [None] * 3
    finally:
        gc.enable()
    assert program.progress() is None
    assert "between two runs" in program.describe()
