"""Runs a program over a transport: bound to its buffers once, then run any number of times.

Binding turns the program into a list of calls - start this message, wait for that one, add this range to that - so
that a run is one pass over the list: nothing is looked up, sliced or allocated in a step. Who makes the calls is a
runner: plain Python, below, or the same pass compiled (`hpcdist.executor.compiled`), where numba is installed. For buffers in
device memory a third one (`hpcdist.executor.gpu_streams`) makes each call as soon as what it depends on allows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from operator import length_hint
from typing import Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcdist.device.accelerator import Accelerator, DeviceArray, idle
from hpcdist.executor.gpu_streams import DeviceRunner, prepare
from hpcdist.kernels import reduce as kernels
from hpcdist.kernels.jit import compiled_or_none
from hpcdist.schedule.program import Act, Kind, Operation, Program, in_order
from hpcdist.transport import Request, Transport
from hpcdist.util.watchdog import WATCHDOG


@dataclass(frozen=True, slots=True)
class Call:
    """One entry of a bound program: a message to start or to wait for, or arrays to combine or to copy at once."""

    act: Act
    operation: Operation | None = None  # None for what a run does before and after the program
    request: Request | None = None  # of START and WAIT
    op: str = ""  # of DO: how `left` and `right` are combined into `out`; "" copies `source` to `target`
    arrays: tuple[NDArray, ...] = ()  # of DO: (left, right, out) or (source, target)


class Runner(Protocol):
    """Makes the calls of a bound program in their order; after the last, the next is the first again."""

    name: str

    @property
    def position(self) -> int:
        """The index of the call in hand."""

    def run(self) -> None:
        """Make the calls that are left, and block until each has done its work."""

    def attempt(self) -> bool:
        """Make the calls that are left up to one that would wait; whether none was left."""


class PythonRunner:
    """Each call is a function without arguments, and a run is a loop over them."""

    name = "python"

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._functions = [_function(call) for call in calls]
        self._rest = iter(self._functions)
        context = copy_context()  # in which sums may overflow without a word, as in the MPI library
        context.run(np.seterr, all="ignore")
        self._quietly = context.run

    @property
    def position(self) -> int:
        """What is left of the iterator tells, so that a run need not count."""
        return max(0, len(self._functions) - length_hint(self._rest) - 1)

    def run(self) -> None:
        """Make the calls that are left."""
        self._quietly(self._run_rest)

    def attempt(self) -> bool:
        """Make the calls that are left up to one that would wait."""
        return self._quietly(self._try_rest)

    def _run_rest(self) -> None:
        for function in self._rest:
            function()
        self._rest = iter(self._functions)

    def _try_rest(self) -> bool:
        for index in range(len(self._calls) - length_hint(self._rest), len(self._calls)):
            call = self._calls[index]
            if call.act is not Act.WAIT:
                self._functions[index]()
            elif call.request and not call.request.test():
                return False
            next(self._rest)
        self._rest = iter(self._functions)
        return True


def _function(call: Call) -> Callable[[], object]:
    """What makes the call, and blocks."""
    if call.request:
        return call.request.start if call.act is Act.START else call.request.wait
    if call.op:
        return kernels.combination(call.op, *call.arrays)
    source, target = call.arrays
    return partial(np.copyto, target, source)


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


IDLE, STARTED, BLOCKED, FAILED, CLOSED = range(5)  # states of a bound program

_STARTED: set[BoundProgram] = set()  # keeps them, and their memory, while messages are in flight


class BoundProgram:
    """A program bound to buffers. Calling it runs it; `start`, `test` and `wait` run it beside other work.

    The results of all ranks are equal bit for bit. Between `start` and the end the buffers belong to it.

    Attributes:
        executor: who makes the calls, "python", "compiled" or "device".
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
        self._run = 0
        self._state = IDLE
        self._unusable = ""  # why it cannot run (again)
        WATCHDOG.watch(self)

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

    def __call__(self) -> None:
        """Run and block until the result is there."""
        if self._state != IDLE:
            self._refuse()
        self._run += 1
        self._finish()

    def start(self) -> None:
        """Begin a run; goes as far as it can without waiting."""
        if self._state != IDLE:
            self._refuse()
        self._run += 1
        self._state = STARTED
        _STARTED.add(self)
        self.test()

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        if self._state == FAILED:
            self._refuse()
        if not self.running:
            return True
        try:
            done = self._runner.attempt()
            if done:
                self._end()
        except BaseException as error:
            self._fail(error)
            raise
        return done

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        if self._state == FAILED:
            self._refuse()
        if self.running:
            self._finish()

    def _finish(self) -> None:
        self._state = BLOCKED
        try:
            self._runner.run()
            self._end()
        except BaseException as error:
            self._fail(error)
            raise

    def _end(self) -> None:
        if self._averages:
            with np.errstate(all="ignore"):
                for part in self._averages:
                    kernels.average(part, self.program.schedule.size)
        self._state = IDLE
        if _STARTED:
            _STARTED.discard(self)

    def _fail(self, error: BaseException) -> None:
        self._state, self._unusable = FAILED, f"its last run ended with {error!r}"
        _STARTED.add(self)  # messages, and work on a device, may still come to its memory

    def _refuse(self) -> None:
        if self._unusable:
            raise RuntimeError(f"this plan cannot run: {self._unusable}.")
        raise RuntimeError("this plan is still running; call wait() before you run it again.")

    @property
    def running(self) -> bool:
        """Whether a run was begun and has not ended; one that failed never ends."""
        return self._state in (STARTED, BLOCKED, FAILED)

    def free(self) -> None:
        """Give up the bindings of all messages, and all memory; the plan cannot run again."""
        for request in self._requests:
            request.free()
        self._requests = []
        if self.running:
            _STARTED.add(self)  # messages may still come to its memory
        else:
            self._calls, self._averages, self._runner = [], [], PythonRunner(())
            self.inbox = np.empty(0, self.dtype)
        self._state, self._unusable = CLOSED, "it was closed"

    # --- for the watchdog ---

    def progress(self) -> Hashable | None:
        """(run, call in hand), or None unless blocked in a run."""
        return (self._run, self._runner.position) if self._state == BLOCKED else None

    def describe(self) -> str:
        """Which algorithm waits in which step for which peer and how many bytes."""
        schedule = self.program.schedule
        where = f"rank {self._transport.rank} of {schedule.size} in {schedule.name} ({self.op}, {self.dtype}"
        where += f", {self.program.layout.count * self.dtype.itemsize} bytes, run {self._run})"
        position = self._runner.position
        op = self._calls[position].operation if self.running and self._calls else None
        if op is None and self.running and self.executor == "device":
            return f"{where}: waits for {'its last work' if position else 'earlier work'} on its device"
        if op is None:
            return f"{where} is between two runs"
        direction = "to" if op.kind is Kind.SEND or op.start >= self.program.outbox_start else "from"
        nbytes = op.count * self.dtype.itemsize
        step = f"step {op.step} of {len(schedule.steps)}"
        return f"{where}, {step}: {op.kind.value} {nbytes} bytes {direction} rank {op.peer}"
