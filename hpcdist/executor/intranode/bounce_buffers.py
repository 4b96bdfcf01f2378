"""Runs an all-reduce of ordinary arrays on one node: they pass through bounce buffers that its ranks share.

The run is one fused kernel. Its schedule is declared beside it, in `algorithms.shared`, and no other is taken.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.executor.intranode import bounce_layout
from hpcdist.executor.lifecycle import BLOCKED, IDLE, Bound
from hpcdist.schedule.ir import Schedule
from hpcdist.transport.mpi import MpiTransport, give_mpi_a_turn
from hpcdist.transport.shared_memory import views

AT = 1  # as in `barrier_flags`, which needs Numba, and codes as in `bounce_kernel`
PENDING, DONE = 0, 1


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
        bounce: NDArray[np.uint8],
        name: str = "",
    ) -> None:
        """Bind; no collective call.

        Args:
            schedule: of the kernel.
            transport: the ranks.
            buffer: what is reduced; left as it is unless it is `out`.
            out: where the result goes.
            op: how to combine.
            bounce: this rank's bounce buffer, which begins with zeros at first; all ranks give that of one number. All
                programs that share it run in the same order on all ranks, one at a time.
            name: what is said to wait; the schedule's if empty.

        Raises: ValueError for a schedule that is not the kernel's.
        """
        from hpcdist.executor.intranode import bounce_kernel  # where there are flags, there is Numba
        from hpcdist.kernels.native import entry_of
        from hpcdist.transport import barrier_flags

        if schedule != bounce_layout.schedule(transport.size, out.nbytes):  # equal by its very steps
            raise ValueError(f"bounce buffers run one_shot and two_shot only, not this {schedule.name}.")
        self.op, self.dtype, self.requests = op, out.dtype, []
        self._schedule, self._transport, self._kernel = schedule, transport, bounce_kernel
        self._name = name or schedule.name
        self._pair = None if buffer.flags.aligned and out.flags.aligned else (buffer.reshape(-1), out.reshape(-1))
        if self._pair:
            buffer = out = np.empty(out.size, out.dtype)
        flags = [*map(address_of, views(transport, bounce, range(transport.size)))]
        slots = [flag + bounce_layout.HEAD for flag in flags]
        work = bounce_kernel.reduction(out.dtype, transport.size, op)
        self._job = bounce_kernel.job(transport.rank, flags, slots, work, buffer, out, transport.crowded)
        self._keep: tuple[object, ...] = (work, buffer, out, bounce)
        self._address = address_of(self._job)
        self._run_kernel, self._advance = entry_of(bounce_kernel.run), entry_of(bounce_kernel.advance)
        self._many_looks = barrier_flags.MANY_LOOKS
        self._inner = out
        super().__init__()

    @property
    def compares(self) -> bool:
        """Whether a run can tell that all ranks have come to the same call; see `checked`."""
        return len(self._schedule.steps) == 1

    def number(self, call: int) -> None:
        """Say which call its runs are."""
        self._job[self._kernel.CALL] = call

    def checked(self) -> bool:
        """Run, if all ranks have come to a call of the same number; else do nothing. Whether they have."""
        if self._state != IDLE:
            self._refuse()
        self._run += 1
        self._state = BLOCKED
        try:
            if self._pair:
                np.copyto(self._inner, self._pair[0])
            code = self._run_kernel(self._address, self._many_looks)
            while code == PENDING:
                give_mpi_a_turn()
                code = self._advance(self._address, self._many_looks)
            self._after(code == DONE)
        except BaseException as error:
            self._fail(error)
            raise
        self._state = IDLE
        return code == DONE

    __call__ = checked  # the ranks of a plan have all come to the same

    def _begin(self) -> None:
        if self._pair:
            np.copyto(self._inner, self._pair[0])
        self._kernel.begin(self._address)

    def _attempt(self) -> bool:
        return self._after(self._advance(self._address, 1) == DONE)

    def _complete(self) -> None:
        while self._advance(self._address, self._many_looks) == PENDING:
            give_mpi_a_turn()
        self._after(True)

    def _after(self, done: bool) -> bool:
        """Copy the result of a run that is complete to an array that compiled code does not take."""
        if done and self._pair:
            np.copyto(self._pair[1], self._inner)
        return done

    def _forget(self) -> None:
        self._keep, self._pair, self._inner = (), None, np.empty(0)

    def _position(self) -> Hashable:
        """How far it is, and who is waited for."""
        return self._waits_for()

    def _waits_for(self) -> str:
        """The first rank whose flag was not seen raised."""
        rank = min(int(self._job[AT]), self._transport.size - 1)
        return f"rank {rank} to have {self._kernel.awaited(self._job)}"

    def describe(self) -> str:
        """Which run waits for which rank."""
        where = f"rank {self._transport.rank} of {self._transport.size} in {self._name} ({self.op}"
        where += f", {self.dtype}, run {self._run})"
        return f"{where}: waits for {self._waits_for()}" if self.running else f"{where} is between two runs"
