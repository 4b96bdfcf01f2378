"""Ranks as threads of one process: the executor without MPI, for tests and for reading."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.transport import TransferError


class ThreadWorld:
    """A world of `size` ranks that live in threads.

    Messages of at most `eager` bytes are buffered at once, as an MPI would; a larger send is complete only when its
    receiver has taken it, so that a schedule which counts on buffering hangs here too.
    """

    def __init__(self, size: int, eager: int = 0, patience: float = 20.0) -> None:
        self.size, self.eager, self.patience = size, eager, patience
        self.changed = threading.Condition()
        self.sent: dict[tuple[int, int, int], deque[tuple[_Send, NDArray]]] = defaultdict(deque)
        self.wanted: dict[tuple[int, int, int], deque[_Receive]] = defaultdict(deque)

    def run(self, rank_main: Callable[[ThreadTransport], Any]) -> list[Any]:
        """Call `rank_main` on every rank at once; returns what each returned, or raises what the first one raised."""
        with ThreadPoolExecutor(self.size) as pool:
            return list(pool.map(rank_main, [ThreadTransport(self, rank) for rank in range(self.size)]))

    def match(self, key: tuple[int, int, int]) -> None:
        """Deliver what can be delivered between a pair; called with `changed` held."""
        while self.sent[key] and self.wanted[key]:
            self.wanted[key].popleft().take(*self.sent[key].popleft())
        self.changed.notify_all()


class ThreadTransport:
    """One rank of a ThreadWorld."""

    def __init__(self, world: ThreadWorld, rank: int) -> None:
        self.world, self.rank, self.size = world, rank, world.size

    def send(self, memory: NDArray, peer: int, tag: int) -> _Send:
        """Bind a send."""
        return _Send(self.world, (self.rank, peer, tag), memory.reshape(-1).view(np.uint8))

    def receive(self, memory: NDArray, peer: int, tag: int) -> _Receive:
        """Bind a receive."""
        return _Receive(self.world, (peer, self.rank, tag), memory.reshape(-1).view(np.uint8))


class _Message:
    native = None

    def __init__(self, world: ThreadWorld, key: tuple[int, int, int], memory: NDArray) -> None:
        self.world, self.key, self.memory = world, key, memory
        self.complete = True

    def test(self) -> bool:
        return self.complete

    def wait(self) -> None:
        with self.world.changed:
            if not self.world.changed.wait_for(lambda: self.complete, self.world.patience):
                raise TimeoutError(f"no message from rank {self.key[0]} to rank {self.key[1]} (tag {self.key[2]})")

    def free(self) -> None:
        """Nothing to give up."""


class _Send(_Message):
    def start(self) -> None:
        with self.world.changed:
            self.complete = self.memory.nbytes <= self.world.eager
            payload = self.memory.copy() if self.complete else self.memory
            self.world.sent[self.key].append((self, payload))
            self.world.match(self.key)


class _Receive(_Message):
    got: int

    def start(self) -> None:
        with self.world.changed:
            self.complete = False
            self.world.wanted[self.key].append(self)
            self.world.match(self.key)

    def take(self, send: _Send, payload: NDArray) -> None:
        self.got = payload.nbytes
        count = min(self.got, self.memory.nbytes)
        self.memory[:count] = payload[:count]
        self.complete = send.complete = True

    def wait(self) -> None:
        super().wait()
        self._check()

    def test(self) -> bool:
        if not self.complete:
            return False
        self._check()
        return True

    def _check(self) -> None:
        if self.got != self.memory.nbytes:
            raise TransferError.of(self.got, self.memory.nbytes, self.key[0])
