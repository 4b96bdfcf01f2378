"""Runs a program over a transport: bound to its buffers once, then run any number of times.

Binding turns the program into a list of calls without arguments - start this message, wait for that one, add this
range to that - so that a run is one pass over the list: nothing is looked up, sliced or allocated in a step.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from operator import length_hint

import numpy as np
from numpy.typing import NDArray

from hpcdist.kernels import reduce as kernels
from hpcdist.program import Act, Kind, Operation, Program, in_order
from hpcdist.transport import Request, Transport
from hpcdist.watch import WATCHDOG


@dataclass(frozen=True, slots=True)
class _Call:
    """One entry of a bound program: what to call, how to try it without blocking, and what it belongs to."""

    do: Callable[[], object]
    attempt: Callable[[], bool] | None = None
    operation: Operation | None = None


class _Line:
    """The elements a program speaks of: the buffer's, then the input's, then the inbox's."""

    def __init__(self, buffer: NDArray, source: NDArray | None, inbox: NDArray) -> None:
        self.buffer = buffer.reshape(-1)
        self.source = self.buffer[:0] if source is None else source.reshape(-1)
        self.inbox = inbox

    def view(self, start: int, stop: int) -> NDArray:
        """The elements of a range, which lies in one of the three."""
        for part in (self.buffer, self.source, self.inbox):
            if start < len(part):
                return part[start:stop]
            start, stop = start - len(part), stop - len(part)
        raise IndexError(f"the line ends {start} elements before the range")


_STARTED: set[BoundProgram] = set()  # keeps them, and their memory, while messages are in flight


class BoundProgram:
    """A program bound to buffers. Calling it runs it; `start`, `test` and `wait` run it beside other work.

    The results of all ranks are equal bit for bit. Between `start` and the end the buffers belong to it.
    """

    def __init__(
        self,
        program: Program,
        transport: Transport,
        buffer: NDArray,
        *,
        source: NDArray | None = None,
        op: str = "sum",
        tag: int = 0,
        copy_from: NDArray | None = None,
        inbox: NDArray | None = None,
    ) -> None:
        """Bind.

        Args:
            program: made by `lower` for the transport's rank.
            transport: how messages move.
            buffer: the chunks 0.. of the schedule, C-contiguous; the result ends up here.
            source: the input chunks, if the schedule has any.
            op: how reductions combine.
            tag: the tag of all messages; no other plan in flight between these ranks may use it.
            copy_from: copied into the buffer at the start of each run, for a result out of place.
            inbox: `program.inbox` elements to receive into, if bindings that never run together are to share them.
        """
        self.program, self.op, self.tag, self.dtype = program, op, tag, buffer.dtype
        self._transport = transport
        self._requests: list[Request] = []
        self.inbox = np.empty(program.inbox, buffer.dtype) if inbox is None else inbox
        line = _Line(buffer, source, self.inbox)
        calls = list(self._bind(line))
        if copy_from is not None:
            calls.insert(0, _Call(partial(np.copyto, line.buffer, copy_from.reshape(-1))))
        calls += [_Call(partial(kernels.average, part, program.schedule.size)) for part in self._to_average(line)]
        self._calls = calls
        self._fast = [call.do for call in calls]
        self._rest: Iterator[Callable[[], object]] = iter(())
        self._run = 0
        self._active = self._blocking = False
        self._unusable = ""  # why it cannot run (again)
        context = copy_context()  # in which sums may overflow without a word, as in the MPI library
        context.run(np.seterr, all="ignore")
        self._quietly = context.run
        WATCHDOG.watch(self)

    def _bind(self, line: _Line) -> Iterator[_Call]:
        """The program's operations as calls, in an order that never waits without need."""
        requests: dict[int, Request] = {}
        operations = self.program.operations
        for number, op in enumerate(operations):
            memory = line.view(op.start, op.stop)
            if op.kind is Kind.SEND:
                requests[number] = self._transport.send(memory, op.peer, self.tag)
            elif op.kind is Kind.RECV:
                requests[number] = self._transport.receive(memory, op.peer, self.tag)
        self._requests = list(requests.values())
        for act, number in in_order(operations):
            op = operations[number]
            if act is Act.START:
                yield _Call(requests[number].start, None, op)
            elif act is Act.WAIT:
                yield _Call(requests[number].wait, requests[number].test, op)
            else:
                mine = line.view(op.start, op.stop)
                other = line.view(op.operand, op.operand + op.count)
                if op.kind is Kind.COPY:
                    yield _Call(partial(np.copyto, mine, other), None, op)
                else:
                    operands = (other, mine) if op.incoming_first else (mine, other)
                    yield _Call(kernels.combination(self.op, *operands, mine), None, op)

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
        self._begin()
        self.wait()

    def start(self) -> None:
        """Begin a run; goes as far as it can without waiting."""
        self._begin()
        _STARTED.add(self)
        self.test()

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        if not self._active:
            return True
        try:
            done = self._quietly(self._try_rest)
        except BaseException as error:
            self._unusable = f"its last run ended with {error!r}"
            raise
        if done:
            self._end()
        return done

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        if not self._active:
            return
        self._blocking = True
        try:
            self._quietly(self._run_rest)
        except BaseException as error:
            self._unusable = f"its last run ended with {error!r}"
            raise
        finally:
            self._blocking = False
        self._end()

    def _run_rest(self) -> None:
        for call in self._rest:
            call()

    def _try_rest(self) -> bool:
        """Make the calls that are left up to one that would wait; whether none was left."""
        for index in range(len(self._calls) - length_hint(self._rest), len(self._calls)):
            call = self._calls[index]
            if call.attempt is None:
                call.do()
            elif not call.attempt():
                return False
            next(self._rest)
        return True

    def _begin(self) -> None:
        if self._unusable:
            raise RuntimeError(f"this plan cannot run: {self._unusable}.")
        if self._active:
            raise RuntimeError("this plan is still running; call wait() before you run it again.")
        self._active = True
        self._run += 1
        self._rest = iter(self._fast)

    def _end(self) -> None:
        self._active = False
        _STARTED.discard(self)

    @property
    def running(self) -> bool:
        """Whether a run was begun and has not ended."""
        return self._active

    def free(self) -> None:
        """Give up the bindings of all messages; the plan cannot run again."""
        for request in self._requests:
            request.free()
        self._requests = []
        self._unusable = "it was closed"

    # --- for the watchdog ---

    @property
    def _position(self) -> int:
        """The index of the call in hand; what is left of the iterator tells, so that a run need not count."""
        return max(0, len(self._calls) - length_hint(self._rest) - 1)

    def progress(self) -> Hashable | None:
        """(run, call in hand), or None unless blocked in a run."""
        return (self._run, self._position) if self._blocking else None

    def describe(self) -> str:
        """Which algorithm waits in which step for which peer and how many bytes."""
        schedule = self.program.schedule
        where = f"rank {self._transport.rank} of {schedule.size} in {schedule.name} ({self.op}, {self.dtype}"
        where += f", {self.program.layout.count * self.dtype.itemsize} bytes, run {self._run})"
        if self._position >= len(self._calls) or (op := self._calls[self._position].operation) is None:
            return f"{where} is between two runs"
        direction = "to" if op.kind is Kind.SEND else "from"
        nbytes = op.count * self.dtype.itemsize
        step = f"step {op.step} of {len(schedule.steps)}"
        return f"{where}, {step}: {op.kind.value} {nbytes} bytes {direction} rank {op.peer}"
