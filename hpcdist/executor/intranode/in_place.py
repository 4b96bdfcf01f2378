"""Runs an all-reduce in memory that ranks share, as stages; here in arrays that themselves lie in such memory.

Each rank reduces its own part from all, and writes it to all. On one node: all meet, so that every input is there; each
rank reduces its part; all meet again, so that every result is there. With several nodes the owners of a part all-reduce
it in between, by an ordinary program of messages.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from types import ModuleType

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.algorithms.shared import between_nodes, own_chunks
from hpcdist.executor.bind import BoundProgram
from hpcdist.executor.intranode.stages import Across, Compiled, Do, addresses, compiled_reduction, finish, reduction
from hpcdist.schedule.ir import Layout, Schedule
from hpcdist.schedule.program import lower
from hpcdist.transport.barrier import MANY_LOOKS, ONE_LOOK, READY, WRITTEN, FlagMeeting, MessageMeeting, Stage
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import home_of, memory_of, views
from hpcdist.util.watchdog import WATCHDOG

_give_mpi_a_turn: Callable[[], object] = MPI.COMM_SELF.Iprobe  # others may wait for a message of ours
_STARTED: set[StageProgram] = set()  # keeps them, and their memory, while others work in it


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


class StageProgram:
    """A task as stages. Calling it runs it; `start`, `test` and `wait` run it beside other work.

    The results of all ranks are equal bit for bit. Between `start` and the end the arrays belong to it.
    """

    def __init__(self, task: Task, transport: MpiTransport, dtype: np.dtype, stages: Sequence[Stage]) -> None:
        """Bind stages, at least one, that do a task on elements of `dtype`."""
        self.tag, self.op, self.dtype = task.tag, task.op, dtype
        self._task, self._transport, self._stages = task, transport, stages
        self._at = self._run = 0
        self._active = self._blocking = False
        self._unusable = ""  # why it cannot run (again)
        whole = stages[0]
        self._at_once = whole.run if isinstance(whole, Compiled) else None
        WATCHDOG.watch(self)

    def __call__(self) -> None:
        """Run and block until the result is there."""
        if self._at_once is None or self._unusable or self._active:
            self._begin()
        elif self._run_at_once(self._at_once):
            return
        self.wait()

    def _run_at_once(self, run: Callable[[int], bool]) -> bool:
        """Begin and go on in one call; whether the result is there."""
        try:
            self._active = True
            self._run += 1
            self._active = not run(MANY_LOOKS)
        except BaseException as error:
            self._give_up(error)
            raise
        return not self._active

    def start(self) -> None:
        """Begin a run; goes as far as it can without waiting."""
        self._begin()
        _STARTED.add(self)
        self.test()

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        if not self._active:
            return True
        self._refuse_if_unusable()
        done = self._advance(ONE_LOOK)
        if done:
            self._end()
        return done

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        if not self._active:
            return
        self._refuse_if_unusable()
        self._blocking = True
        try:
            while not self._advance(MANY_LOOKS):
                _give_mpi_a_turn()
        finally:
            self._blocking = False
        self._end()

    def _refuse_if_unusable(self) -> None:
        if self._unusable:
            raise RuntimeError(f"this plan cannot run: {self._unusable}.")

    def _begin(self) -> None:
        self._refuse_if_unusable()
        if self._active:
            raise RuntimeError("this plan is still running; call wait() before you run it again.")
        self._active = True
        self._run += 1
        self._at = 0
        self._stages[0].begin()

    def _advance(self, looks: int) -> bool:
        """Go through the stages up to one that is not complete; whether none was left."""
        stages = self._stages
        try:
            while stages[self._at].attempt(looks):
                if self._at == len(stages) - 1:
                    return True
                self._at += 1
                stages[self._at].begin()
        except BaseException as error:
            self._give_up(error)
            raise
        return False

    def _give_up(self, error: BaseException) -> None:
        self._unusable = f"its last run ended with {error!r}"
        _STARTED.add(self)  # others may still work in its memory

    def _end(self) -> None:
        self._active = False
        _STARTED.discard(self)

    @property
    def running(self) -> bool:
        """Whether a run was begun and has not ended."""
        return self._active

    def free(self) -> None:
        """Give up messages and memory; the plan cannot run again."""
        for stage in self._stages:
            stage.free()
        self._stages, self._at_once = [], None
        self._unusable = "it was closed"

    # --- for the watchdog ---

    def progress(self) -> Hashable | None:
        """(run, stage, who is waited for), or None unless blocked in a run."""
        if not self._blocking or self._at >= len(self._stages):
            return None
        return (self._run, self._at, self._stages[self._at].waits_for())

    def describe(self) -> str:
        """Which algorithm waits in which stage for which rank."""
        task, transport = self._task, self._transport
        where = f"rank {transport.rank} of {transport.size} in {task.schedule.name} ({self.op}, {self.dtype}"
        where += f", run {self._run})"
        if not self._active or self._at >= len(self._stages):
            return f"{where} is between two runs"
        stage = self._stages[self._at]
        return f"{where}, stage {self._at} of {len(self._stages)}: waits for {stage.waits_for()}"


class SharedProgram(StageProgram):
    """A task bound to arrays in memory that the ranks of a node share."""

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

    def free(self) -> None:
        """Give up messages and memory; the plan cannot run again."""
        super().free()
        self._keep = ()


class _Bind:
    """What the stages of one rank are made from."""

    def __init__(self, task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray) -> None:
        self.task, self.transport, self.buffer, self.out = task, transport, buffer, out
        self.home, me = home_of(transport), transport.rank
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
        op, flags = self.task.op, self.home.flags
        if flags and self._aligned:
            job, work = self._job(flags), compiled_reduction(self.sources, self.destinations, op)
            job[[flags.REDUCE, flags.ROW]] = work.code, work.row
            return [Compiled(flags, job, self.ranks, work)]
        return [self._meeting(READY), self._reduction(self.destinations, op), self._meeting(WRITTEN)]

    def _on_several(self) -> list[Stage]:
        op = "sum" if self.task.op == "avg" else self.task.op
        me = self.ranks.index(self.transport.rank)
        mine, others = self.destinations[me], [*self.destinations[:me], *self.destinations[me + 1 :]]
        return [
            self._meeting(READY),
            self._reduction([mine], op),
            Across(self._between(op)),
            Do(partial(finish, mine, others, self.task.op, self.transport.size)),
            self._meeting(WRITTEN),
        ]

    @property
    def _aligned(self) -> bool:
        return all(array.flags.aligned for array in (self.buffer, self.out))

    def _reduction(self, destinations: Sequence[NDArray], op: str) -> Stage:
        return reduction(self.sources, destinations, op, compiled=bool(self.home.flags and self._aligned))

    def _between(self, op: str) -> BoundProgram:
        """The messages between nodes, on this rank's part of `out`."""
        steps = between_nodes(self.task.schedule, self.task.topology)
        program = lower(steps, self.transport.rank, self.layout, self.task.segment)
        return BoundProgram(program, self.transport, self.out, op=op, tag=self.task.tag)

    def _meeting(self, what: str) -> Stage:
        if flags := self.home.flags:
            return FlagMeeting(flags, self._job(flags), self.ranks, what)
        memories = {id(memory): memory for memory in map(memory_of, (self.buffer, self.out)) if memory}
        syncs = [memory.window.sync for memory in memories.values()]
        return MessageMeeting(self.transport, self.ranks, self.task.tag, syncs, what)

    def _job(self, flags: ModuleType) -> NDArray[np.int64]:
        lines = addresses(views(self.transport, self.line, self.ranks))
        return flags.job(self.ranks.index(self.transport.rank), lines, self.home.crowded)
