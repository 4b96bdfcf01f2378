"""Barriers of a node, over messages or flags: all its ranks are here, and each sees what the others have written.

A barrier is a `Request`: it is started, and later found complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpcdist.transport import Request, Transport


class Barrier(Request, Protocol):
    """A request of some ranks together."""

    def waits_for(self) -> str:
        """Who must have done what before it is complete, in words."""


class MessageBarrier:
    """Rounds of empty messages, to and from ranks 1, 2, 4, ... places away; MPI's own way to order memory.

    Source: the dissemination barrier of Hensgen, Finkel and Manber.
    """

    native = None

    def __init__(
        self, transport: Transport, ranks: Sequence[int], tag: int, syncs: Sequence[Callable[[], None]], what: str
    ) -> None:
        """Bind.

        Args:
            transport: how messages move.
            ranks: of the barrier.
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

    def start(self) -> None:
        """Say that all this rank wrote is there."""
        for sync in self._syncs:
            sync()
        self._round = 0
        self._start_round()

    def _start_round(self) -> None:
        if self._round < len(self._peers):
            self._receives[self._round].start()
            self._sends[self._round].start()

    def test(self) -> bool:
        """Go through the rounds as far as possible without waiting."""
        while self._round < len(self._peers):
            if not (self._receives[self._round].test() and self._sends[self._round].test()):
                return False
            self._round += 1
            self._start_round()
        for sync in self._syncs:
            sync()
        return True

    def wait(self) -> None:
        """Go through the rounds."""
        while not self.test():
            self._receives[self._round].wait()
            self._sends[self._round].wait()

    def waits_for(self) -> str:
        """The rank whose message is due, and perhaps another that it waits for."""
        at = min(self._round, len(self._peers) - 1)
        return f"rank {self._peers[at]} (or one behind it) to have {self._what}" if self._peers else "nobody"

    def free(self) -> None:
        """Give up the messages."""
        for bound in (self._receives, self._sends):
            for request in bound:
                request.free()


class FlagBarrier:
    """Every rank raises its own flag and looks at the others'; only where there is Numba.

    Attributes:
        job: for compiled code, which does without the methods.
        meanwhile: to be called now and then by who waits, since others may wait for a message of this rank's.
    """

    native = None

    def __init__(
        self, job: NDArray[np.int64], ranks: Sequence[int], what: str, meanwhile: Callable[[], object]
    ) -> None:
        """`job` as made by `barrier_flags.job`; `what` says what a rank has done whose flag is up."""
        from hpcdist.transport import barrier_flags

        self.job, self.meanwhile = job, meanwhile
        self._flags, self._ranks, self._what = barrier_flags, ranks, what

    def start(self) -> None:
        """Raise the own flag."""
        self._flags.raise_flag(self.job)

    def test(self) -> bool:
        """Look at the others'."""
        return self._flags.all_there(self.job, 1)

    def wait(self) -> None:
        """Look until they are raised."""
        while not self._flags.all_there(self.job, self._flags.MANY_LOOKS):
            self.meanwhile()

    def waits_for(self) -> str:
        """The first rank whose flag was not seen raised."""
        return f"rank {self._flags.late(self.job, self._ranks)} to have {self._what}"

    def free(self) -> None:
        """Nothing to give up."""
