"""Runs a program over a transport: bound to its buffers once, then run any number of times.

Binding turns the program into a list of calls - start this message, wait for that one, add this range to that - so
that a run is one pass over the list: nothing is looked up, sliced or allocated in a step. Who makes the calls is a
runner: plain Python (`python`), or the same pass compiled (`compiled`), where numba is installed. For buffers in device
memory a third one (`gpu_streams`) makes each call as soon as what it depends on allows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcdist.device.accelerator import Accelerator, DeviceArray, idle
from hpcdist.executor.calls import Call, Runner, fused
from hpcdist.executor.gpu_streams import DeviceRunner, prepare
from hpcdist.executor.lifecycle import Bound
from hpcdist.executor.python import PythonRunner
from hpcdist.kernels.jit import compiled_or_none
from hpcdist.schedule.order import Act, in_order
from hpcdist.schedule.program import HERE, Kind, Operation, Place, Program
from hpcdist.transport import Request, Transport
from hpcdist.transport.barrier import FlagBarrier


def runner_for(calls: Sequence[Call]) -> Runner:
    """The compiled runner where there can be one, unless HPCDIST_COMPILED is 0; if it is 1, no other will do.

    Raises: RuntimeError if HPCDIST_COMPILED is neither, or if it is 1 and numba does not work.
    """
    compiled, problem = compiled_or_none(partial(_compiled_for, calls))
    if problem:
        raise RuntimeError(problem)
    return compiled(calls) if compiled else PythonRunner(calls)


def _compiled_for(calls: Sequence[Call]) -> Callable[[Sequence[Call]], Runner] | None:
    """The compiled runner, with all loops it calls; None if these are no calls for it."""
    requests = [call.request for call in calls if call.request]
    native = bool(requests) and all(request.native or isinstance(request, FlagBarrier) for request in requests)
    if not native or not all(array.flags.aligned for call in calls for array in call.arrays):
        return None
    from hpcdist.executor.compiled import CompiledRunner  # numba takes half a second to import
    from hpcdist.kernels.loops import loop

    for call in calls:
        if call.op and call.is_plain:
            loop(call.op, call.targets[0].dtype)
    return CompiledRunner


class Memory:
    """A rank's memory as programs speak of it: the buffer, the input, then inbox and outbox."""

    def __init__(self, buffer: NDArray, source: NDArray | None = None, boxes: NDArray | None = None) -> None:
        self._parts = [each.reshape(-1) for each in (buffer, source, boxes) if each is not None]

    def view(self, start: int, count: int) -> NDArray:
        """The elements of a range, which lies in one of the parts."""
        at = start
        for part in self._parts:
            if at < part.size:
                return part[at : at + count]
            at -= part.size
        raise IndexError(f"the memory ends {at} elements before the range at {start}")


@dataclass(frozen=True)
class Peers:
    """What is needed of ranks that reach each other's memory.

    Attributes:
        memories: of the others, by rank.
        barrier: binds a barrier of them all; `what` each rank has done that is there, in words.
        keep: what must stay alive as long as these.
    """

    memories: dict[int, Memory]
    barrier: Callable[[str], Request]
    keep: tuple[object, ...] = field(default=())


READY, WRITTEN = "its input ready", "its part written"  # by a rank that has come to the first, or a later barrier


def boxes_for(program: Program, dtype: DTypeLike, accelerator: Accelerator | None = None) -> NDArray | DeviceArray:
    """Memory for the inbox and the outbox of a program: where its buffer is, or page-locked if it is staged.

    What is received into the inbox does not wait for the caller's work, so nothing of that may still use the memory.
    """
    count = program.inbox + program.outbox
    if accelerator is None:
        return np.empty(count, dtype)
    return accelerator.pinned(count, dtype) if program.staged else idle(accelerator, count, dtype)


class BoundProgram(Bound):
    """A program bound to buffers, as a list of calls.

    Attributes:
        executor: who makes the calls: "python", "compiled" or "gpu_streams".
    """

    def __init__(
        self,
        program: Program,
        transport: Transport,
        buffer: NDArray | DeviceArray,
        *,
        source: NDArray | DeviceArray | None = None,
        op: str = "sum",
        tag: int = 0,
        copy_from: NDArray | DeviceArray | None = None,
        inbox: NDArray | DeviceArray | None = None,
        accelerator: Accelerator | None = None,
        peers: Peers | None = None,
    ) -> None:
        """Bind.

        Args:
            program: made by `lower` for the transport's rank; staged if the transport cannot read the buffer, and with
                averages if `op` is "avg".
            transport: how messages move.
            buffer: the chunks 0.. of the schedule, C-contiguous; the result ends up here.
            source: the input, if the program reads one.
            op: how reductions combine.
            tag: the tag of all messages; no other plan in flight between these ranks may use it.
            copy_from: copied into the buffer at the start of each run, for a result out of place.
            inbox: what `boxes_for` gives, if bindings that never run together are to share it.
            accelerator: the device where the arrays are; None for host memory.
            peers: the ranks whose memory the program reaches, if there are any.

        Raises: ValueError for an "avg" of a program without averages, or another op of one with.
        """
        if (op == "avg") != program.average:
            raise ValueError(f"op={op!r} does not fit a program {'with' if program.average else 'without'} averages.")
        self.program, self.op, self.tag = program, op, tag
        self.dtype = buffer.dtype if accelerator is None else accelerator.dtype_of(buffer)
        self._transport, self._peers = transport, peers
        self.requests: list[Request] = []
        self._barriers = 0
        self.inbox = boxes_for(program, buffer.dtype, accelerator) if inbox is None else inbox
        self._memory = Memory(buffer, source, self.inbox)
        copy = Call(Act.DO)
        if copy_from is not None:
            copy = Call(Act.DO, sources=(copy_from.reshape(-1),), targets=(buffer.reshape(-1),))
        calls = [self._call(op) for op in program.operations]
        self.requests = [call.request for call in calls if call.request]
        if accelerator is None:
            self._calls = [copy] * bool(copy.sources) + fused(self._in_turn(calls))
            self._runner: Runner = runner_for(self._calls)
        else:
            prepare(accelerator, op, self.dtype)
            self._calls = [copy, *calls]
            self._runner = DeviceRunner(accelerator, program, self._calls)
        self.executor = self._runner.name
        super().__init__()

    def _call(self, operation: Operation) -> Call:
        """An operation as a call; of what takes other ranks, its start."""
        kind = operation.kind
        if kind is Kind.BARRIER:
            return Call(Act.START, operation, self._barrier())
        mine = self._view(Place(operation.owner, operation.start), operation.count)
        if kind is Kind.SEND:
            return Call(Act.START, operation, self._transport.send(mine, operation.peer, self.tag))
        if kind is Kind.RECV:
            return Call(Act.START, operation, self._transport.receive(mine, operation.peer, self.tag))
        if kind is Kind.DIVIDE:
            return Call(Act.DO, operation, sources=(mine,), targets=(mine,), divisor=self.program.schedule.size)
        sources = tuple(self._view(place, operation.count) for place in operation.operands)
        return Call(Act.DO, operation, op=self.op if kind is Kind.REDUCE else "", sources=sources, targets=(mine,))

    def _barrier(self) -> Request:
        if self._peers is None:
            raise ValueError(f"the program of {self.program.schedule.name} reaches memory of others: give its peers.")
        self._barriers += 1
        return self._peers.barrier(READY if self._barriers == 1 else WRITTEN)

    def _view(self, place: Place, count: int) -> NDArray:
        memory = self._memory if place.rank == HERE else self._peers.memories[place.rank]  # type: ignore[union-attr]
        return memory.view(place.start, count)

    def _in_turn(self, calls: Sequence[Call]) -> list[Call]:
        """The calls of the operations, and the waits, in an order that never waits without need."""
        order = in_order(self.program.operations)
        return [replace(calls[number], act=act) if act is Act.WAIT else calls[number] for act, number in order]

    def _begin(self) -> None:
        """The first call of its runner begins the run."""

    def _attempt(self) -> bool:
        return self._runner.attempt()

    def _complete(self) -> None:
        self._runner.run()

    _run_whole = _complete

    def _forget(self) -> None:
        self._calls, self._runner, self._peers = [], PythonRunner(()), None
        self.inbox = np.empty(0, self.dtype)
        self._memory = Memory(self.inbox)

    def _position(self) -> int:
        return self._runner.position

    def describe(self) -> str:
        """Which algorithm waits in which step for which peer and how many bytes."""
        schedule = self.program.schedule
        where = f"rank {self._transport.rank} of {schedule.size} in {schedule.name} ({self.op}, {self.dtype}"
        where += f", {self.program.layout.count * self.dtype.itemsize} bytes, run {self._run})"
        position = self._runner.position
        call = self._calls[position] if self.running and self._calls else None
        op = call.operation if call else None
        if op is None and self.running and self.executor == DeviceRunner.name:
            return f"{where}: waits for {'its last work' if position else 'earlier work'} on its device"
        if call is None or op is None:
            return f"{where} is between two runs"
        step = f"step {op.step} of {len(schedule.steps)}"
        if op.kind is Kind.BARRIER:
            return f"{where}, {step}: waits for {call.request.waits_for()}"  # type: ignore[union-attr]
        direction = "to" if op.kind is Kind.SEND or op.start >= self.program.outbox_start else "from"
        nbytes = op.count * self.dtype.itemsize
        return f"{where}, {step}: {op.kind.value} {nbytes} bytes {direction} rank {op.peer}"
