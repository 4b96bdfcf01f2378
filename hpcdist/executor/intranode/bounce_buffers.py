"""Runs an all-reduce of ordinary arrays on one node: they pass through bounce buffers that its ranks share."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.executor.intranode.in_place import StageProgram, Task
from hpcdist.executor.intranode.stages import Compiled, Do
from hpcdist.transport.barrier_words import Stage
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import home_of, views


class BouncedProgram(StageProgram):
    """A task bound to arrays anywhere in host memory, of ranks that share one node and have compiled flags."""

    executor = "bounce_buffers"

    def __init__(
        self, task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray, room: NDArray[np.uint8]
    ) -> None:
        """Bind; collective the first time for a tag.

        Args:
            task: what to do.
            transport: the ranks.
            buffer: what is reduced; left as it is unless it is `out`.
            out: where the result goes.
            room: this rank's bounce buffer, see `room_of`; that of the same number on all ranks. Tasks that share it
                never run at the same time, and all ranks meet between them.
        """
        super().__init__(task, transport, out.dtype, _stages(task, transport, buffer, out, room))


def room_of(transport: MpiTransport, number: int, nbytes: int) -> NDArray[np.uint8]:
    """Collective, unless it is there already: the bounce buffer of a number, for an array of `nbytes`."""
    from hpcdist.executor.intranode.bounce_kernel import room_for

    return home_of(transport).room(number, room_for(nbytes))


def _stages(task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray, room: NDArray[np.uint8]) -> list[Stage]:
    """One stage in compiled code, which wants aligned arrays: others are copied before and after."""
    home_of(transport).line(task.tag)  # which is collective, so before anything can go wrong on this rank alone
    if buffer.flags.aligned and out.flags.aligned:
        return [_run(task, transport, buffer, out, room)]
    inner = np.empty(out.size, out.dtype)
    before, after = (partial(np.copyto, *pair) for pair in ((inner, buffer.reshape(-1)), (out.reshape(-1), inner)))
    return [Do(before), _run(task, transport, inner, inner, room), Do(after)]


def _run(task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray, room: NDArray[np.uint8]) -> Compiled:
    """The whole run."""
    from hpcdist.executor.intranode import bounce_kernel  # where there are flags, there is Numba

    home, size = home_of(transport), transport.size
    line = home.line(task.tag)
    lines, rooms = ([*map(address_of, views(transport, mine, range(size)))] for mine in (line, room))
    work = bounce_kernel.reduction(out.dtype, size, task.op)
    job = bounce_kernel.job(transport.rank, lines, rooms, work, buffer, out, home.crowded)
    return Compiled(bounce_kernel, job, range(size), work, buffer, out, line, room)
