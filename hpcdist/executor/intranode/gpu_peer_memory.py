"""Runs a program in device memory that the ranks of a node open for each other.

At the first barrier everybody tells everybody where its arrays lie, once they are ready; then kernels read and write
the memory of others where it is.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from hpcdist.device.accelerator import Accelerator, DeviceArray, Event, accelerator_of
from hpcdist.executor.bind import READY, WRITTEN, Memory, boxes_for
from hpcdist.executor.calls import Call
from hpcdist.executor.gpu_streams import prepare
from hpcdist.executor.lifecycle import Bound
from hpcdist.executor.python import PythonRunner
from hpcdist.schedule.order import Act
from hpcdist.schedule.program import HERE, Kind, Operation, Place, Program
from hpcdist.transport import Request
from hpcdist.transport.barrier import Barrier, MessageBarrier
from hpcdist.transport.cuda_ipc import TOKEN, PeerMemory, TokenBarrier, packed
from hpcdist.transport.mpi import MpiTransport, give_mpi_a_turn


class OnDevice:
    """Work in a stream, complete when the event after it is: a request, as barriers are."""

    native = None

    def __init__(self, submit: Callable[[], Event]) -> None:
        self._submit = submit
        self._event: Event

    def start(self) -> None:
        """Submit it."""
        self._event = self._submit()

    def test(self) -> bool:
        """Ask the device."""
        return self._event.done()

    def wait(self) -> None:
        """Let others have the core, and MPI its turn, until it is done."""
        while not self._event.done():
            give_mpi_a_turn()
            os.sched_yield()

    def waits_for(self) -> str:
        """It waits for nobody else."""
        return "its own device"

    def free(self) -> None:
        """Nothing to give up."""


class PeerMemoryProgram(Bound):
    """A program bound to device memory that all ranks can open; it sends no messages."""

    executor = "gpu_peer_memory"

    def __init__(
        self, program: Program, transport: MpiTransport, buffer: DeviceArray, out: DeviceArray, op: str, tag: int
    ) -> None:
        """Bind; not a collective call.

        Args:
            program: made by `lower` for ranks that all reach each other; it reads its input if `out` is not `buffer`.
            transport: the ranks.
            buffer: what is reduced; left as it is unless it is `out`.
            out: where the result goes.
            op: how reductions combine.
            tag: of the plan.

        Raises: ValueError if `out` is not in device memory.
        """
        accelerator = accelerator_of(out)
        if accelerator is None:
            raise ValueError("peer memory is of devices; this array is in host memory.")
        self.program, self.op, self.tag = program, op, tag
        self.dtype = accelerator.dtype_of(out)
        prepare(accelerator, op, self.dtype)
        self._transport = transport
        source = buffer if program.reads_input else None
        memory = Memory(out, source, boxes_for(program, self.dtype, accelerator))
        peers = _PeerArrays(transport, program, accelerator, tag, [out] if source is None else [out, source])
        copied = None if buffer is out or program.reads_input else (out, buffer)
        self._calls = list(_Work(accelerator, op, program.schedule.size, memory, peers, copied).calls(program))
        self._runner = PythonRunner(self._calls)
        self.requests = peers.requests
        super().__init__()

    def _begin(self) -> None:
        """The first call of its runner begins the run."""

    def _attempt(self) -> bool:
        return self._runner.attempt()

    def _complete(self) -> None:
        self._runner.run()

    def _forget(self) -> None:
        self._calls, self._runner = [], PythonRunner(())

    def _position(self) -> int:
        return self._runner.position

    def describe(self) -> str:
        """Which algorithm waits in which step for which rank."""
        schedule = self.program.schedule
        where = f"rank {self._transport.rank} of {schedule.size} in {schedule.name} ({self.op}, {self.dtype}"
        where += f", run {self._run})"
        if not (self.running and self._calls):
            return f"{where} is between two runs"
        call = self._calls[self._runner.position]
        step = f", step {call.operation.step} of {len(schedule.steps)}" if call.operation else ""
        return f"{where}{step}: waits for {call.request.waits_for()}"  # type: ignore[union-attr]


class _Work:
    """What a rank has its device do, in one stream."""

    def __init__(
        self,
        accelerator: Accelerator,
        op: str,
        size: int,
        memory: Memory,
        peers: _PeerArrays,
        copied: tuple[DeviceArray, DeviceArray] | None,
    ) -> None:
        """`copied`: target and source of a copy to begin with."""
        self._accelerator, self._op, self._size = accelerator, op, size
        self._memory, self._peers, self._copied = memory, peers, copied
        self._stream = accelerator.stream()

    def calls(self, program: Program) -> Iterator[Call]:
        """Work goes to the stream in the order of the program, and is waited for before each barrier and at the end.

        A run begins with the event after what makes the input, or still reads the last result.
        """
        yield from _both(OnDevice(self._first))
        for group in _fused(program.operations):
            operation = group[0]
            if operation.kind is Kind.BARRIER:
                yield from _both(OnDevice(self._stream.record), operation)
                yield from _both(self._peers.barrier(), operation)
            else:
                yield Call(Act.START, operation, OnDevice(partial(self._submit, group)))
        yield from _both(OnDevice(self._stream.record))

    def _first(self) -> Event:
        """The event after the caller's work, or after a copy that begins then."""
        event = self._accelerator.current().record()
        if self._copied is None:
            return event
        self._stream.follow(event)
        self._stream.copy(*self._copied)
        return self._stream.record()

    def _submit(self, group: Sequence[Operation]) -> Event:
        """Put work that is done together into the stream."""
        first = group[0]
        targets = [self._view(Place(each.owner, each.start), each.count) for each in group]
        sources = [self._view(place, first.count) for place in first.operands]
        if first.kind is Kind.DIVIDE:
            self._stream.average(targets[0], self._size)
        elif first.kind is Kind.REDUCE:
            self._stream.combine(self._op, targets, sources)
        else:
            self._stream.copy(targets[0], sources[0])
        return self._stream.record()

    def _view(self, place: Place, count: int) -> DeviceArray:
        memory = self._memory if place.rank == HERE else self._peers.memory(place.rank)
        return memory.view(place.start, count)


def _fused(operations: Sequence[Operation]) -> list[list[Operation]]:
    """The operations, those together that put one sum into several places."""
    groups: list[list[Operation]] = []
    for operation in operations:
        made = groups[-1][0] if groups else None
        copies_it = (
            made is not None
            and (made.kind, operation.kind) == (Kind.REDUCE, Kind.COPY)
            and operation.operands == (Place(HERE, made.start),)
            and operation.count == made.count
        )
        if copies_it:
            groups[-1].append(operation)
        else:
            groups.append([operation])
    return groups


class _PeerArrays:
    """The arrays of the other ranks, which each tells at the first barrier of a run."""

    def __init__(
        self,
        transport: MpiTransport,
        program: Program,
        accelerator: Accelerator,
        tag: int,
        arrays: Sequence[DeviceArray],
    ) -> None:
        token = np.concatenate([packed(accelerator.share(array)) for array in arrays])
        self._transport, self._ranks, self._tag = transport, program.reachable, tag
        self._tokens = TokenBarrier(transport, program.reachable, tag, token, READY)
        self._known = {rank: [PeerMemory(accelerator, rank, array) for array in arrays] for rank in self._tokens.tokens}
        self.requests: list[Request] = [self._tokens]
        self._given = False

    def barrier(self) -> Barrier:
        """The next one of a run."""
        if not self._given:
            self._given = True
            return self._tokens
        later = MessageBarrier(self._transport, self._ranks, self._tag, (), WRITTEN)
        self.requests.append(later)
        return later

    def memory(self, rank: int) -> Memory:
        """Of another rank, as it has told last."""
        tokens = self._tokens.tokens[rank].reshape(-1, TOKEN)
        return Memory(*(known.at(token) for known, token in zip(self._known[rank], tokens, strict=True)))


def _both(request: Request, operation: Operation | None = None) -> Iterator[Call]:
    """Start, and wait."""
    yield Call(Act.START, operation, request)
    yield Call(Act.WAIT, operation, request)
