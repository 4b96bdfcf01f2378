"""Runs a bound program on device memory: messages by the host, copies and reductions on streams of the device.

A run is a flow of data. A message starts when all that it depends on is complete, which events say: no byte of a buffer
is sent before the kernel that makes it has finished. Copies and reductions are submitted ahead, as soon as the messages
they depend on are complete and the other work they depend on is submitted: for that the device itself waits. The
device as a whole is never waited for.
"""

from __future__ import annotations

import heapq
import math
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hpcdist.device.accelerator import Accelerator, DeviceArray, Event, Stream, idle
from hpcdist.schedule.program import Kind, Operation, Program
from hpcdist.transport import Request

if TYPE_CHECKING:
    from hpcdist.executor.calls import Call

Key = tuple[float, bool, int]  # step, whether a send, number: of what may start, the lowest comes first


class _Node:
    """A part of a run that is started once, when what it waits for has been started or is complete.

    Attributes:
        key: when to start.
        lane: what is in flight in one lane is complete in the order of its starts.
        told: whether the host or another stream must know when it is complete.
        on_start: the nodes that wait for this one to be started.
        on_done: the nodes that wait for it to be complete.
        needs: how many nodes it waits for.
        missing: how many of them in this run.
        complete: whether it is, or nobody need know.
    """

    start: Callable[[], object]
    done: Callable[[], bool]

    def __init__(self, key: Key, lane: Hashable, told: bool) -> None:
        self.key, self.lane, self.told = key, lane, told
        self.on_start: list[int] = []  # numbers, not nodes: memory goes when the last plan goes, not when Python
        self.on_done: list[int] = []  # looks for circles
        self.needs = self.missing = 0
        self.complete = False


class _Message(_Node):
    def __init__(self, key: Key, operation: Operation, request: Request) -> None:
        super().__init__(key, (operation.kind, operation.peer), told=True)
        self.start, self.done = request.start, request.test


class _Work(_Node):
    """What is submitted to a stream, after the work in other streams that it depends on."""

    def __init__(self, key: Key, stream: Stream, submit: Callable[[], object], told: bool = False) -> None:
        super().__init__(key, id(stream), told)
        self.stream, self._submit = stream, submit
        self.others: list[_Work] = []
        self._event: Event

    def start(self) -> None:
        for other in self.others:
            self.stream.follow(other._event)
        self._submit()
        if self.told:
            self._event = self.stream.record()

    def done(self) -> bool:
        return self._event.done()


class _Streams(NamedTuple):
    into: Stream  # from host memory
    out: Stream  # to host memory
    work: Stream

    def begin(self, current: Callable[[], Stream], copied: Sequence[DeviceArray]) -> None:
        """Go behind the caller's work; then copy the second of two arrays from the first, if there are two."""
        self.work.follow(current().record())
        if copied:
            source, target = copied
            self.work.copy(target, source)

    def end(self) -> None:
        """Bring all together; what was copied out has been sent."""
        self.work.follow(self.into.record())

    def node(self, number: int, call: Call) -> _Node:
        """The call of an operation; receives come before sends."""
        operation = call.operation
        if operation is None:
            raise TypeError("the call is of no operation")
        key = (operation.step, operation.kind is Kind.SEND, number)
        if call.request:
            return _Message(key, operation, call.request)
        (target,) = call.targets
        if call.op:
            return _Work(key, self.work, partial(self.work.combine, call.op, [target], call.sources))
        if call.divisor > 1:
            return _Work(key, self.work, partial(self.work.average, target, call.divisor))
        (source,) = call.sources
        stream = self.into if isinstance(source, np.ndarray) else self.work
        stream = self.out if isinstance(target, np.ndarray) else stream
        return _Work(key, stream, partial(stream.copy, target, source))


_PREPARED: set[tuple[str, str, np.dtype]] = set()  # identities of devices, operations and types


def prepare(accelerator: Accelerator, op: str, dtype: np.dtype) -> None:
    """Make the device's kernels run once: they are compiled, or fail, before the first run and not in it."""
    if (accelerator.identity, op, dtype) in _PREPARED:
        return
    first, second = (idle(accelerator, 1, dtype) for _ in range(2))
    stream = accelerator.stream()
    stream.combine(op, [first], [first, second])
    stream.combine(op, [first, second], [first, second])
    if op == "avg":
        stream.average(first, 2)
    stream.record().wait()
    _PREPARED.add((accelerator.identity, op, dtype))


class DeviceRunner:
    """Makes the calls of a bound program, each as soon as what it depends on allows.

    A run begins after what is in the caller's current stream by then; when it ends, all its work is done.
    """

    name = "gpu_streams"

    def __init__(self, accelerator: Accelerator, program: Program, calls: Sequence[Call]) -> None:
        """Bind.

        Args:
            accelerator: where the buffers are.
            program: what the calls do.
            calls: a copy to begin with, without arrays if there is none, and a call for each operation.
        """
        streams = _Streams(*(accelerator.stream() for _ in range(3)))
        self._nodes: list[_Node] = [
            _Work(
                (-1, False, 0), streams.work, partial(streams.begin, accelerator.current, calls[0].arrays), told=True
            ),
            *(streams.node(number, call) for number, call in enumerate(calls[1:], 1)),
            _Work((math.inf, False, 0), streams.work, streams.end, told=True),
        ]
        self._link(program)
        self._flights: dict[Hashable, deque[_Node]] = {node.lane: deque() for node in self._nodes}
        self._startable: list[tuple[Key, _Node]] = []
        self._reset()

    def _link(self, program: Program) -> None:
        """Let nodes wait for each other, and messages of a pair for the start of the one before."""
        last = len(self._nodes) - 1
        previous: dict[Hashable, _Node] = {}
        for number, operation in enumerate(program.operations, 1):
            node = self._nodes[number]
            for first in _dependencies(operation, program):
                self._wait(number, first)
                _tell(self._nodes[first], node)
            if isinstance(node, _Message):
                if before := previous.get(node.lane):
                    before.on_start.append(number)
                    node.needs += 1
                previous[node.lane] = node
            self._wait(last, number)

    def _wait(self, number: int, first: int) -> None:
        """Work waits for work to be submitted; a message, or for a message, for it to be complete."""
        node, other = self._nodes[number], self._nodes[first]
        both_work = isinstance(node, _Work) and isinstance(other, _Work)
        (other.on_start if both_work else other.on_done).append(number)
        node.needs += 1

    @property
    def position(self) -> int:
        """The index of the first call that is not complete."""
        return next((number for number, node in enumerate(self._nodes) if not node.complete), 0)

    def run(self) -> None:
        """Go on until the run is complete; others get the core while nothing moves."""
        while not self.attempt():
            os.sched_yield()

    def attempt(self) -> bool:
        """Go on as far as possible without waiting; whether the run is complete."""
        self._start_all()
        while self._look():
            self._start_all()
        if not self._nodes[-1].complete:
            return False
        self._reset()
        return True

    def _reset(self) -> None:
        for node in self._nodes:
            node.missing, node.complete = node.needs, False
        self._startable = [(node.key, node) for node in self._nodes if not node.needs]
        heapq.heapify(self._startable)

    def _start_all(self) -> None:
        """Start what may start, and what then may."""
        while self._startable:
            node = heapq.heappop(self._startable)[1]
            node.start()
            if node.told:
                self._flights[node.lane].append(node)
            else:
                node.complete = True
            self._release(node.on_start)

    def _look(self) -> bool:
        """Look at the oldest in flight of each lane; whether anything has become complete."""
        moved = False
        for flight in self._flights.values():
            while flight and flight[0].done():
                node = flight.popleft()
                node.complete = moved = True
                self._release(node.on_done)
        return moved

    def _release(self, waiting: Iterable[int]) -> None:
        for number in waiting:
            node = self._nodes[number]
            node.missing -= 1
            if not node.missing:
                heapq.heappush(self._startable, (node.key, node))


def _dependencies(operation: Operation, program: Program) -> Iterator[int]:
    """The numbers of the nodes that an operation depends on: 0 is the begin, which all wait for that touch the buffer.

    What comes after other work comes after the begin with it; what is received into the inbox need not wait.
    """
    for number in operation.after:
        yield number + 1
    after_work = any(not program.operations[number].kind.waits for number in operation.after)
    private = operation.kind is Kind.RECV and operation.start >= program.inbox_start
    if not after_work and not private:
        yield 0


def _tell(first: _Node, node: _Node) -> None:
    """See to it that it is known of `first` when it is done, if that is not clear from the order of a stream."""
    if isinstance(first, _Work) and isinstance(node, _Work) and first.stream is node.stream:
        return
    first.told = True
    if isinstance(first, _Work) and isinstance(node, _Work):
        node.others.append(first)
