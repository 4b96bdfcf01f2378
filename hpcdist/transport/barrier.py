"""Meetings: all ranks of a node are here, and each sees what the others have written. Over messages, or over flags.

Flags are compiled by Numba (the extra `fast`). HPCDIST_COMPILED=0 does without, as where there is no Numba; 1 insists.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpcdist.errors import AgreedError
from hpcdist.kernels.jit import compiled_or_none
from hpcdist.transport import Request
from hpcdist.transport.mpi import MpiTransport, raise_together

READY, WRITTEN = "its input ready", "its part written"
ONE_LOOK = 1
AT = 1  # the field of a job of `flags` that says which rank is not known to be there
MANY_LOOKS = 3000  # at a flag; then Python and MPI get their turn


class Stage(Protocol):
    """A part of a run that can be begun and then gone on with, without blocking or for a while."""

    def begin(self) -> None:
        """Begin; does not wait."""

    def attempt(self, looks: int) -> bool:
        """Go on; whether it is complete. With ONE_LOOK it does not wait, with more it may."""

    def waits_for(self) -> str:
        """Who must do what before it goes on, in words."""

    def free(self) -> None:
        """Give up what it holds of MPI."""


class MessageMeeting:
    """Rounds of empty messages, to and from ranks 1, 2, 4, ... places away; MPI's own way to order memory."""

    def __init__(
        self, transport: MpiTransport, ranks: Sequence[int], tag: int, syncs: Sequence[Callable[[], None]], what: str
    ) -> None:
        """Bind.

        Args:
            transport: how messages move.
            ranks: who meets.
            tag: of the messages.
            syncs: the windows' Win.Sync, to be called on both sides of a message.
            what: what a rank has done that is here.
        """
        me, nothing = ranks.index(transport.rank), np.empty(0, np.uint8)
        away = [1 << i for i in range((len(ranks) - 1).bit_length())]
        self._peers = [ranks[(me - far) % len(ranks)] for far in away]
        self._receives: list[Request] = [transport.receive(nothing, peer, tag) for peer in self._peers]
        self._sends: list[Request] = [transport.send(nothing, ranks[(me + far) % len(ranks)], tag) for far in away]
        self._syncs, self._what = syncs, what
        self._round = 0

    def begin(self) -> None:
        """Say that all this rank wrote is there."""
        for sync in self._syncs:
            sync()
        self._round = 0
        self._start()

    def _start(self) -> None:
        if self._round < len(self._peers):
            self._receives[self._round].start()
            self._sends[self._round].start()

    def attempt(self, looks: int) -> bool:
        """Go through the rounds."""
        while self._round < len(self._peers):
            pair = self._receives[self._round], self._sends[self._round]
            for request in pair:
                if looks > ONE_LOOK:
                    request.wait()
                elif not request.test():
                    return False
            self._round += 1
            self._start()
        for sync in self._syncs:
            sync()
        return True

    def waits_for(self) -> str:
        """The rank whose message is due, and perhaps another that it waits for."""
        at = min(self._round, len(self._peers) - 1)
        return f"rank {self._peers[at]} (or one behind it) to have {self._what}" if self._peers else "nobody"

    def free(self) -> None:
        """Give up the messages."""
        for bound in (self._receives, self._sends):
            for request in bound:
                request.free()


class FlagMeeting:
    """Every rank raises its own flag and looks at the others'."""

    def __init__(self, flags: ModuleType, job: NDArray[np.int64], ranks: Sequence[int], what: str) -> None:
        """`job` as made by `flags.job`; `what` says what a rank has done whose flag is up."""
        self._flags, self._job, self._ranks, self._what = flags, job, ranks, what

    def begin(self) -> None:
        """Raise the own flag."""
        self._flags.raise_flag(self._job)

    def attempt(self, looks: int) -> bool:
        """Look at the others'."""
        return self._flags.all_there(self._job, looks)

    def waits_for(self) -> str:
        """The first rank whose flag was not seen raised."""
        return f"rank {late(self._job, self._ranks)} to have {self._what}"

    def free(self) -> None:
        """Nothing to give up."""


def late(job: NDArray[np.int64], ranks: Sequence[int]) -> int:
    """The first rank of a job that is not known to be there."""
    return ranks[min(int(job[AT]), len(ranks) - 1)]


def _import_flags() -> ModuleType:
    importlib.import_module("hpcdist.executor.intranode.bounce_kernel")
    return importlib.import_module("hpcdist.transport.barrier_flags")


def agreed_flags(transport: MpiTransport) -> ModuleType | None:
    """Collective: the compiled flags if all ranks have Numba and want it, else None.

    They, and what stands on them, are compiled by their import, so that what fails there is agreed on, too.

    Raises: AgreedError, on all ranks alike, if HPCDIST_COMPILED cannot be obeyed.
    """
    flags, problem = compiled_or_none(_import_flags)
    answers = transport.exchange((problem, flags is not None), "say whether they have Numba")
    raise_together([answer[0] for answer in answers], AgreedError)
    return flags if all(answer[1] for answer in answers) else None
