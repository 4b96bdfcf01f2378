"""Runs a program over a transport: bound to its buffers once, then run any number of times.

Binding turns the program into a list of calls - start this message, wait for that one, add this range to that - so
that a run is one pass over the list: nothing is looked up, sliced or allocated in a step. Who makes the calls is a
runner: plain Python (`python`), or the same pass compiled (`compiled`), where numba is installed. For buffers in device
memory a third one (`gpu_streams`) makes each call as soon as what it depends on allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcdist.device.accelerator import Accelerator, DeviceArray, idle
from hpcdist.executor.calls import Call, Runner
from hpcdist.executor.gpu_streams import DeviceRunner, prepare
from hpcdist.executor.lifecycle import Bound
from hpcdist.executor.python import PythonRunner
from hpcdist.kernels import reduce as kernels
from hpcdist.kernels.jit import compiled_or_none
from hpcdist.schedule.order import Act, in_order
from hpcdist.schedule.program import Kind, Operation, Program
from hpcdist.transport import Request, Transport


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
    native = bool(requests) and all(request.native for request in requests)
    if not native or not all(array.flags.aligned for call in calls for array in call.arrays):
        return None
    from hpcdist.executor.compiled import CompiledRunner  # numba takes half a second to import
    from hpcdist.kernels.loops import loop

    for call in calls:
        if call.op:
            loop(call.op, call.arrays[-1].dtype)
    return CompiledRunner


class _Line:
    """The elements a program speaks of: the buffer's, then the input's, then those of inbox and outbox."""

    def __init__(self, buffer: NDArray, source: NDArray | None, boxes: NDArray) -> None:
        self.buffer = buffer.reshape(-1)
        self.source = self.buffer[:0] if source is None else source.reshape(-1)
        self.boxes = boxes

    def view(self, start: int, stop: int) -> NDArray:
        """The elements of a range, which lies in one of the three."""
        for part in (self.buffer, self.source, self.boxes):
            if start < part.size:
                return part[start:stop]
            start, stop = start - part.size, stop - part.size
        raise IndexError(f"the line ends {start} elements before the range")


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
    ) -> None:
        """Bind.

        Args:
            program: made by `lower` for the transport's rank; staged if the transport cannot read the buffer.
            transport: how messages move.
            buffer: the chunks 0.. of the schedule, C-contiguous; the result ends up here.
            source: the input chunks, if the schedule has any.
            op: how reductions combine.
            tag: the tag of all messages; no other plan in flight between these ranks may use it.
            copy_from: copied into the buffer at the start of each run, for a result out of place.
            inbox: what `boxes_for` gives, if bindings that never run together are to share it.
            accelerator: the device where the arrays are; None for host memory.
        """
        self.program, self.op, self.tag = program, op, tag
        self.dtype = buffer.dtype if accelerator is None else accelerator.dtype_of(buffer)
        self._transport = transport
        self._requests: list[Request] = []
        self.inbox = boxes_for(program, buffer.dtype, accelerator) if inbox is None else inbox
        line = _Line(buffer, source, self.inbox)
        copy = Call(Act.DO, arrays=() if copy_from is None else (copy_from.reshape(-1), line.buffer))
        averages = list(self._to_average(line))
        calls = self._bind(line)
        if accelerator is None:
            self._calls = [copy] * bool(copy.arrays) + self._in_turn(calls)
            self._runner: Runner = runner_for(self._calls)
            self._averages = averages
        else:
            prepare(accelerator, op, self.dtype)
            self._calls = [copy, *calls, Call(Act.DO, arrays=tuple(averages))]
            self._runner = DeviceRunner(accelerator, program, self._calls)
            self._averages = []
        self.executor = self._runner.name
        super().__init__()

    def _bind(self, line: _Line) -> list[Call]:
        """The program's operations as calls, those of messages as their starts."""
        calls = []
        for op in self.program.operations:
            mine = line.view(op.start, op.stop)
            if op.kind is Kind.SEND:
                calls.append(Call(Act.START, op, self._transport.send(mine, op.peer, self.tag)))
            elif op.kind is Kind.RECV:
                calls.append(Call(Act.START, op, self._transport.receive(mine, op.peer, self.tag)))
            else:
                calls.append(self._work(op, mine, line.view(op.operand, op.operand + op.count)))
        self._requests = [call.request for call in calls if call.request]
        return calls

    def _work(self, op: Operation, mine: NDArray, other: NDArray) -> Call:
        if op.kind is Kind.COPY:
            return Call(Act.DO, op, arrays=(other, mine))
        left, right = (other, mine) if op.incoming_first else (mine, other)
        return Call(Act.DO, op, op=self.op, arrays=(left, right, mine))

    def _in_turn(self, calls: Sequence[Call]) -> list[Call]:
        """The calls of the operations, and the waits for messages, in an order that never waits without need."""
        order = in_order(self.program.operations)
        return [replace(calls[number], act=act) if act is Act.WAIT else calls[number] for act, number in order]

    def _to_average(self, line: _Line) -> Iterator[NDArray]:
        """What this rank has of the result, to be divided at the end."""
        if self.op != "avg":
            return
        layout, contract = self.program.layout, self.program.schedule.contract
        if contract.owner is None:
            yield line.buffer
        else:
            for chunk in np.flatnonzero(contract.owner == self.program.rank).tolist():
                yield line.buffer[layout.start(chunk) : layout.start(chunk + 1)]

    def _begin(self) -> None:
        """The first call of its runner begins the run."""

    def _attempt(self) -> bool:
        done = self._runner.attempt()
        if done:
            self._average()
        return done

    def _complete(self) -> None:
        self._runner.run()
        self._average()

    _run_whole = _complete

    def _average(self) -> None:
        if self._averages:
            with np.errstate(all="ignore"):
                for part in self._averages:
                    kernels.average(part, self.program.schedule.size)

    def _unbind(self) -> None:
        for request in self._requests:
            request.free()
        self._requests = []

    def _forget(self) -> None:
        self._calls, self._averages, self._runner = [], [], PythonRunner(())
        self.inbox = np.empty(0, self.dtype)

    def _position(self) -> int:
        return self._runner.position

    def describe(self) -> str:
        """Which algorithm waits in which step for which peer and how many bytes."""
        schedule = self.program.schedule
        where = f"rank {self._transport.rank} of {schedule.size} in {schedule.name} ({self.op}, {self.dtype}"
        where += f", {self.program.layout.count * self.dtype.itemsize} bytes, run {self._run})"
        position = self._runner.position
        op = self._calls[position].operation if self.running and self._calls else None
        if op is None and self.running and self.executor == DeviceRunner.name:
            return f"{where}: waits for {'its last work' if position else 'earlier work'} on its device"
        if op is None:
            return f"{where} is between two runs"
        direction = "to" if op.kind is Kind.SEND or op.start >= self.program.outbox_start else "from"
        nbytes = op.count * self.dtype.itemsize
        step = f"step {op.step} of {len(schedule.steps)}"
        return f"{where}, {step}: {op.kind.value} {nbytes} bytes {direction} rank {op.peer}"
