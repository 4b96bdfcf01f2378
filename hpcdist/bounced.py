"""Runs an all-reduce of ordinary arrays on one node: they pass through bounce buffers that its ranks share."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from hpcdist.shared import StageProgram, Task
from hpcdist.stages import Compiled, Do, addresses
from hpcdist.transport.meeting import Stage
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.window import home_of, views


class BouncedProgram(StageProgram):
    """A task bound to arrays anywhere in host memory, of ranks that share one node and have compiled flags."""

    def __init__(self, task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray) -> None:
        """Bind; collective the first time for a tag.

        Args:
            task: what to do.
            transport: the ranks.
            buffer: what is reduced; left as it is unless it is `out`.
            out: where the result goes.
        """
        super().__init__(task, transport, out.dtype, _stages(task, transport, buffer, out))


def _stages(task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray) -> list[Stage]:
    """One stage in compiled code, which wants aligned arrays: others are copied before and after."""
    if buffer.flags.aligned and out.flags.aligned:
        return [_run(task, transport, buffer, out)]
    inner = np.empty(out.size, out.dtype)
    before, after = (partial(np.copyto, *pair) for pair in ((inner, buffer.reshape(-1)), (out.reshape(-1), inner)))
    return [Do(before), _run(task, transport, inner, inner), Do(after)]


def _run(task: Task, transport: MpiTransport, buffer: NDArray, out: NDArray) -> Compiled:
    """The whole run."""
    from hpcdist.transport import bounce  # where there are flags, there is Numba

    home, size = home_of(transport), transport.size
    line, room = home.line(task.tag), home.room(task.room, bounce.room_for(out.nbytes))
    lines, rooms = (addresses(views(transport, mine, range(size))) for mine in (line, room))
    work = bounce.reduction(out.dtype, size, task.op)
    job = bounce.job(transport.rank, lines, rooms, work, buffer, out, home.crowded)
    return Compiled(bounce, job, range(size), work, buffer, out, line, room)
