"""Barriers of a node, over messages or flags: all its ranks are here, and each sees what the others have written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hpcdist.transport import Request
from hpcdist.transport.barrier_words import ONE_LOOK, late
from hpcdist.transport.mpi import MpiTransport


class MessageBarrier:
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


class FlagBarrier:
    """Every rank raises its own flag and looks at the others'; only where there is Numba."""

    def __init__(self, job: NDArray[np.int64], ranks: Sequence[int], what: str) -> None:
        """`job` as made by `barrier_flags.job`; `what` says what a rank has done whose flag is up."""
        from hpcdist.transport import barrier_flags

        self._flags, self._job, self._ranks, self._what = barrier_flags, job, ranks, what

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
