"""Runs an all-reduce of ordinary arrays on one node: they pass through bounce buffers that its ranks share.

The run is one fused kernel. Its schedule is declared beside it, in `algorithms.shared`, and no other is taken.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.executor.lifecycle import Bound
from hpcdist.schedule.ir import Schedule
from hpcdist.transport.mpi import MpiTransport, give_mpi_a_turn
from hpcdist.transport.shared_memory import home_of, views


class BouncedProgram(Bound):
    """An all-reduce of arrays anywhere in host memory, of ranks that share one node and have compiled flags."""

    executor = "bounce_buffers"

    def __init__(
        self,
        schedule: Schedule,
        transport: MpiTransport,
        buffer: NDArray,
        out: NDArray,
        op: str,
        tag: int,
        bounce: NDArray[np.uint8],
    ) -> None:
        """Bind; collective the first time for a tag.

        Args:
            schedule: of the kernel.
            transport: the ranks.
            buffer: what is reduced; left as it is unless it is `out`.
            out: where the result goes.
            op: how to combine.
            tag: of the flags.
            bounce: this rank's bounce buffer, see `bounce_buffer`; that of the same number on all ranks. Programs that
                share it never run at the same time, and there is a barrier of all ranks between them.

        Raises: ValueError for a schedule that is not the kernel's.
        """
        from hpcdist.executor.intranode import bounce_kernel  # where there are flags, there is Numba
        from hpcdist.transport import barrier_flags

        if schedule != bounce_kernel.schedule(transport.size, out.nbytes):  # equal by its very steps
            raise ValueError(f"bounce buffers run one_shot and two_shot only, not this {schedule.name}.")
        self.tag, self.op, self.dtype = tag, op, out.dtype
        self._schedule, self._transport, self._kernel = schedule, transport, bounce_kernel
        home = home_of(transport)
        flag = home.flag(tag)  # which is collective, so before anything can go wrong on this rank alone
        self._pair = None if buffer.flags.aligned and out.flags.aligned else (buffer.reshape(-1), out.reshape(-1))
        if self._pair:
            buffer = out = np.empty(out.size, out.dtype)
        flags, bounces = ([*map(address_of, views(transport, mine, range(transport.size)))] for mine in (flag, bounce))
        work = bounce_kernel.reduction(out.dtype, transport.size, op)
        self._job = bounce_kernel.job(transport.rank, flags, bounces, work, buffer, out, home.crowded)
        self._keep: tuple[object, ...] = (work, buffer, out, flag, bounce)
        self._run_kernel, self._advance = bounce_kernel.run, bounce_kernel.advance
        self._late, self._many_looks = barrier_flags.late, barrier_flags.MANY_LOOKS
        self._inner = out
        super().__init__()

    def _begin(self) -> None:
        if self._pair:
            np.copyto(self._inner, self._pair[0])
        self._kernel.begin(self._job)

    def _attempt(self) -> bool:
        return self._after(self._advance(self._job, 1))

    def _complete(self) -> None:
        while not self._advance(self._job, self._many_looks):
            give_mpi_a_turn()
        self._after(True)

    def _run_whole(self) -> None:
        """Begun and gone on with in one call, which a small reduction is worth."""
        if self._pair:
            self._begin()
            self._complete()
        elif not self._run_kernel(self._job, self._many_looks):
            self._complete()

    def _after(self, done: bool) -> bool:
        """Copy the result of a run that is complete to an array that compiled code does not take."""
        if done and self._pair:
            np.copyto(self._pair[1], self._inner)
        return done

    def _unbind(self) -> None:
        """Nothing of the transport is bound."""

    def _forget(self) -> None:
        self._keep, self._pair, self._inner = (), None, np.empty(0)

    def _position(self) -> Hashable:
        """How far it is, and who is waited for."""
        return self._waits_for()

    def _waits_for(self) -> str:
        """The first rank whose flag was not seen raised."""
        rank = self._late(self._job, range(self._transport.size))
        return f"rank {rank} to have {self._kernel.awaited(self._job)}"

    def describe(self) -> str:
        """Which run waits for which rank."""
        where = f"rank {self._transport.rank} of {self._transport.size} in {self._schedule.name} ({self.op}"
        where += f", {self.dtype}, run {self._run})"
        return f"{where}: waits for {self._waits_for()}" if self.running else f"{where} is between two runs"


def bounce_buffer(transport: MpiTransport, number: int, nbytes: int) -> NDArray[np.uint8]:
    """Collective, unless it is there already: the bounce buffer of a number, for an array of `nbytes`."""
    from hpcdist.executor.intranode.bounce_kernel import nbytes_for

    return home_of(transport).bounce_buffer(number, nbytes_for(nbytes))


def bounce_schedule(size: int, nbytes: int) -> Schedule:
    """What runs through bounce buffers, for an array of `nbytes`."""
    from hpcdist.executor.intranode import bounce_kernel

    return bounce_kernel.schedule(size, nbytes)
