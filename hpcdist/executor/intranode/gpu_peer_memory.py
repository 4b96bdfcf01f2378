"""Runs an all-reduce in device memory that ranks of a node open for each other: each reduces its own part from all.

Like `in_place`, but in memory of devices: everybody tells everybody where its arrays lie once they are ready; one
kernel of each rank reads its own part of all inputs where they are, and writes it to all results; then all wait for
each other. With several nodes the owners of a part all-reduce it in between, by an ordinary program of messages.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from hpcdist.algorithms.shared import between_nodes, own_chunks
from hpcdist.device.accelerator import Accelerator, DeviceArray, Event, accelerator_of
from hpcdist.executor.bind import BoundProgram
from hpcdist.executor.gpu_streams import prepare
from hpcdist.executor.intranode.in_place import StageProgram, Task
from hpcdist.executor.intranode.stages import Across
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.transport.barrier import MessageBarrier
from hpcdist.transport.barrier_words import ONE_LOOK, READY, WRITTEN, Stage
from hpcdist.transport.cuda_ipc import TOKEN, PeerMemory, TokenBarrier, packed
from hpcdist.transport.mpi import MpiTransport

INPUT, RESULT = 0, -1  # which of a rank's arrays, of which there are one or two


class DirectProgram(StageProgram):
    """A task bound to device memory that the ranks of this node can open."""

    executor = "gpu_peer_memory"

    def __init__(
        self, task: Task, transport: MpiTransport, buffer: DeviceArray, out: DeviceArray, staged: bool = True
    ) -> None:
        """Bind; not a collective call.

        Args:
            task: what to do.
            transport: the ranks.
            buffer: what is reduced; left as it is unless it is `out`.
            out: where the result goes.
            staged: whether messages between nodes go through host memory; else MPI must take device memory.

        Raises: ValueError if `out` is not in device memory.
        """
        accelerator = accelerator_of(out)
        if accelerator is None:
            raise ValueError("a direct all-reduce is for device memory; this array is in host memory.")
        prepare(accelerator, task.op, accelerator.dtype_of(out))
        bind = _Bind(task, transport, accelerator, buffer, out)
        self._keep: tuple[object, ...] = (buffer, out, bind)  # and with it what is open of the others' memory
        super().__init__(task, transport, accelerator.dtype_of(out), bind.stages(staged))

    def _forget(self) -> None:
        super()._forget()
        self._keep = ()


class OnDevice:
    """Work in a stream, complete when the event after it is: a Stage."""

    def __init__(self, submit: Callable[[], Event]) -> None:
        self._submit = submit
        self._event: Event

    def begin(self) -> None:
        """Submit it."""
        self._event = self._submit()

    def attempt(self, looks: int) -> bool:
        """Ask the device."""
        done = self._event.done()
        if not done and looks > ONE_LOOK:
            os.sched_yield()
        return done

    def waits_for(self) -> str:
        """It waits for nobody else."""
        return "its own device"

    def free(self) -> None:
        """Nothing to give up."""


class _Bind:
    """What the stages of one rank are made from."""

    def __init__(
        self, task: Task, transport: MpiTransport, accelerator: Accelerator, buffer: DeviceArray, out: DeviceArray
    ) -> None:
        self.task, self.transport, self.accelerator, self.out = task, transport, accelerator, out
        self.stream, me = accelerator.stream(), transport.rank
        self.ranks = [rank for rank, node in enumerate(task.topology) if node == task.topology[me]]
        self.layout = Layout.near_equal(task.schedule, out.size)
        self.own = slice(*(self.layout.start(chunk) for chunk in own_chunks(task.schedule, task.topology, me)))
        arrays = [array.reshape(-1) for array in ((out,) if buffer is out else (buffer, out))]
        self.parts = [array[self.own] for array in arrays]
        self.mine = self.parts[RESULT]
        token = np.concatenate([packed(accelerator.share(array)) for array in arrays])
        self.ready = TokenBarrier(transport, self.ranks, task.tag, token, READY)
        self.peers = {rank: [PeerMemory(accelerator, rank, array) for array in arrays] for rank in self.ready.tokens}

    def stages(self, staged: bool) -> list[Stage]:
        """All stages of a run."""
        written = MessageBarrier(self.transport, self.ranks, self.task.tag, (), WRITTEN)
        return [OnDevice(self._made), self.ready, *self._work(staged), written]

    def _work(self, staged: bool) -> list[Stage]:
        if len(set(self.task.topology)) > 1:
            return [OnDevice(self._reduce), Across(self._between(staged)), OnDevice(self._finish)]
        return [OnDevice(self._reduce_and_finish if self.task.op == "avg" else self._reduce_to_all)]

    def _made(self) -> Event:
        """The event after what makes the input, or still reads the last result."""
        return self.accelerator.current().record()

    def _reduce_to_all(self) -> Event:
        """One kernel reads all inputs and writes all results."""
        if self.mine.size:
            self.stream.combine(self.task.op, self._parts(RESULT), self._parts(INPUT))
        return self.stream.record()

    def _reduce(self) -> Event:
        """Into this rank's result."""
        if self.mine.size:
            self.stream.combine(self.task.op, [self.mine], self._parts(INPUT))
        return self.stream.record()

    def _reduce_and_finish(self) -> Event:
        """A sum is divided by its owner before others get it: each element once, and in local memory."""
        self._reduce()
        return self._finish()

    def _finish(self) -> Event:
        """Copy this rank's part of the result to the others of the node; a sum is divided first if it is to be."""
        if self.mine.size:
            if self.task.op == "avg":
                self.stream.average(self.mine, self.transport.size)
            for part in self._parts(RESULT):
                if part is not self.mine:
                    self.stream.copy(part, self.mine)
        return self.stream.record()

    def _parts(self, which: int) -> list[DeviceArray]:
        """What this rank reduces: of the inputs, or of the results, of all ranks of the node in their order."""
        return [self._part(rank, which) for rank in self.ranks]

    def _part(self, rank: int, which: int) -> DeviceArray:
        if rank == self.transport.rank:
            return self.parts[which]
        token = self.ready.tokens[rank].reshape(-1, TOKEN)[which]
        return self.peers[rank][which].at(token)[self.own]

    def _between(self, staged: bool) -> BoundProgram:
        """The messages between nodes, on this rank's part of `out`."""
        steps = between_nodes(self.task.schedule, self.task.topology)
        program = lower(steps, self.transport.rank, self.layout, self.task.segment, staged)
        op = "sum" if self.task.op == "avg" else self.task.op
        return BoundProgram(program, self.transport, self.out, op=op, tag=self.task.tag, accelerator=self.accelerator)
