"""Runs an all-reduce in memory that ranks share, as stages; here in arrays that themselves lie in such memory.

Each rank reduces its own part from all, and writes it to all. On one node: all meet, so that every input is there; each
rank reduces its part; all meet again, so that every result is there. With several nodes the owners of a part all-reduce
it in between, by an ordinary program of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.algorithms.shared import between_nodes, own_chunks
from hpcdist.device.buffers import address_of
from hpcdist.executor.bind import BoundProgram
from hpcdist.executor.intranode.capability import compiled_on_all
from hpcdist.executor.intranode.stages import Across, Compiled, Do, compiled_reduction, finish, reduction
from hpcdist.executor.lifecycle import Bound
from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.transport.barrier import FlagBarrier, MessageBarrier
from hpcdist.transport.barrier_words import MANY_LOOKS, ONE_LOOK, READY, WRITTEN, Stage
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import home_of, memory_of, views

_give_mpi_a_turn: Callable[[], object] = MPI.COMM_SELF.Iprobe  # others may wait for a message of ours


@dataclass(frozen=True)
class Task:
    """An all-reduce by a schedule of `algorithms.shared`.

    Attributes:
        schedule: the schedule.
        topology: the node of each rank; those of a node share the memory of the result.
        op: how to combine.
        tag: of messages and flags.
        segment: elements of a segment of a message between nodes.
    """

    schedule: Schedule
    topology: Sequence[int]
    op: str
    tag: int
    segment: int


class StageProgram(Bound):
    """A task as stages, one after the other."""

    def __init__(self, task: Task, transport: MpiTransport, dtype: np.dtype, stages: Sequence[Stage]) -> None:
        """Bind stages, at least one, that do a task on elements of `dtype`."""
        self.tag, self.op, self.dtype = task.tag, task.op, dtype
        self._task, self._transport, self._stages = task, transport, stages
        self._at = 0
        only = stages[0] if len(stages) == 1 else None
        self._at_once = only.run if isinstance(only, Compiled) else None
        super().__init__()

    def _begin(self) -> None:
        self._at = 0
        self._stages[0].begin()

    def _attempt(self) -> bool:
        return self._advance(ONE_LOOK)

    def _complete(self) -> None:
        while not self._advance(MANY_LOOKS):
            _give_mpi_a_turn()

    def _run_whole(self) -> None:
        """Where all is compiled, it is begun and gone on with in one call."""
        if self._at_once is None:
            self._begin()
            self._complete()
        elif not self._at_once(MANY_LOOKS):
            self._complete()

    def _advance(self, looks: int) -> bool:
        """Go through the stages up to one that is not complete; whether none was left."""
        stages = self._stages
        while stages[self._at].attempt(looks):
            if self._at == len(stages) - 1:
                return True
            self._at += 1
            stages[self._at].begin()
        return False

    def _unbind(self) -> None:
        for stage in self._stages:
            stage.free()

    def _forget(self) -> None:
        self._stages, self._at_once = [], None

    def _position(self) -> Hashable:
        """The stage, and who is waited for."""
        return (self._at, self._stages[self._at].waits_for())

    def describe(self) -> str:
        """Which algorithm waits in which stage for which rank."""
        task, transport = self._task, self._transport
        where = f"rank {transport.rank} of {transport.size} in {task.schedule.name} ({self.op}, {self.dtype}"
        where += f", run {self._run})"
        if not self.running:
            return f"{where} is between two runs"
        stage = self._stages[self._at]
        return f"{where}, stage {self._at} of {len(self._stages)}: waits for {stage.waits_for()}"


class SharedProgram(StageProgram):
    """A task bound to arrays in memory that the ranks of a node share."""

    executor = "in_place"

    def __init__(self, task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray) -> None:
        """Bind; collective the first time on a communicator.

        Args:
            task: what to do.
            transport: the ranks.
            buffer: what is reduced; copied to `out` first if it does not lie in memory that is shared, too.
            out: where the result goes, in shared memory; may be `buffer`.
        """
        bind = _Bind(task, transport, buffer, out)
        self._keep: tuple[NDArray, ...] = (buffer, out, bind.line)
        super().__init__(task, transport, out.dtype, bind.stages())

    def _forget(self) -> None:
        super()._forget()
        self._keep = ()


class _Bind:
    """What the stages of one rank are made from."""

    def __init__(self, task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray) -> None:
        self.task, self.transport, self.buffer, self.out = task, transport, buffer, out
        self.home, me = home_of(transport), transport.rank
        self.compiled = compiled_on_all(transport)
        self.ranks = [rank for rank, node in enumerate(task.topology) if node == task.topology[me]]
        self.layout = Layout.near_equal(task.schedule, out.size)
        first, end = (self.layout.start(chunk) for chunk in own_chunks(task.schedule, task.topology, me))
        self.destinations = [view[first:end] for view in views(transport, out, self.ranks)]
        self.direct = buffer is not out and memory_of(buffer) is not None
        inputs = views(transport, buffer, self.ranks) if self.direct else []
        self.sources = [view[first:end] for view in inputs] or self.destinations
        self.line = self.home.line(task.tag)

    def stages(self) -> list[Stage]:
        """All stages of a run."""
        work = self._on_one_node() if len(set(self.task.topology)) == 1 else self._on_several()
        if self.buffer is self.out or self.direct:
            return work
        return [Do(partial(np.copyto, self.out, self.buffer)), *work]

    def _on_one_node(self) -> list[Stage]:
        op = self.task.op
        if self.compiled and self._aligned:
            from hpcdist.executor.intranode import in_place_kernel

            job, work = self._job(), compiled_reduction(self.sources, self.destinations, op)
            job[[in_place_kernel.REDUCE, in_place_kernel.ROW]] = work.code, work.row
            return [Compiled(in_place_kernel, job, self.ranks, work)]
        return [self._barrier(READY), self._reduction(self.destinations, op), self._barrier(WRITTEN)]

    def _on_several(self) -> list[Stage]:
        op = "sum" if self.task.op == "avg" else self.task.op
        me = self.ranks.index(self.transport.rank)
        mine, others = self.destinations[me], [*self.destinations[:me], *self.destinations[me + 1 :]]
        return [
            self._barrier(READY),
            self._reduction([mine], op),
            Across(self._between(op)),
            Do(partial(finish, mine, others, self.task.op, self.transport.size)),
            self._barrier(WRITTEN),
        ]

    @property
    def _aligned(self) -> bool:
        return all(array.flags.aligned for array in (self.buffer, self.out))

    def _reduction(self, destinations: Sequence[NDArray], op: str) -> Stage:
        return reduction(self.sources, destinations, op, compiled=self.compiled and self._aligned)

    def _between(self, op: str) -> BoundProgram:
        """The messages between nodes, on this rank's part of `out`."""
        steps = between_nodes(self.task.schedule, self.task.topology)
        program = lower(steps, self.transport.rank, self.layout, self.task.segment)
        return BoundProgram(program, self.transport, self.out, op=op, tag=self.task.tag)

    def _barrier(self, what: str) -> Stage:
        if self.compiled:
            return FlagBarrier(self._job(), self.ranks, what)
        memories = {id(memory): memory for memory in map(memory_of, (self.buffer, self.out)) if memory}
        syncs = [memory.window.sync for memory in memories.values()]
        return MessageBarrier(self.transport, self.ranks, self.task.tag, syncs, what)

    def _job(self) -> NDArray[np.int64]:
        from hpcdist.transport import barrier_flags

        lines = [*map(address_of, views(self.transport, self.line, self.ranks))]
        return barrier_flags.job(self.ranks.index(self.transport.rank), lines, self.home.crowded)
