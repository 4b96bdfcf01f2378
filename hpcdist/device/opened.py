"""Allocations of other processes: what they are called, and which of them this process has opened."""

from __future__ import annotations

import os
import struct
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from weakref import WeakValueDictionary

_HEADER = struct.Struct("<16sQQQ64s")


@cache
def token(process: int) -> bytes:
    """A name for a process of this host, drawn when it first asks; numbers of processes repeat across containers."""
    return os.urandom(16)


@dataclass(frozen=True)
class Foreign:
    """An allocation under a name that no other allocation has, in any process of this host.

    Attributes:
        process: the token of the process that made it.
        number: which of that process's allocations it is.
        base: where it begins there.
        nbytes: how large it is.
        handle: what CUDA opens it by [64].
        device: identity of the device it is on.
    """

    process: bytes
    number: int
    base: int
    nbytes: int
    handle: bytes
    device: str

    def pack(self) -> bytes:
        """It as bytes."""
        head = _HEADER.pack(self.process, self.number, self.base, self.nbytes, self.handle)
        return head + self.device.encode()

    @classmethod
    def unpack(cls, data: bytes) -> Foreign:
        """It from bytes; ValueError if there are too few."""
        if len(data) < _HEADER.size:
            raise ValueError(f"{len(data)} bytes name no allocation; it takes at least {_HEADER.size}")
        process, number, base, nbytes, handle = _HEADER.unpack_from(data)
        return cls(process, number, base, nbytes, handle, data[_HEADER.size :].decode())

    @property
    def own(self) -> bool:
        """Whether this very process made it, which CUDA refuses to open again."""
        return self.process == token(os.getpid())

    def replaces(self, other: Foreign) -> bool:
        """Whether it lies where `other` did, which its process must then have freed."""
        apart = self.base + self.nbytes <= other.base or other.base + other.nbytes <= self.base
        return (self.process, self.device) == (other.process, other.device) and not apart


class Mapping:
    """An allocation that is open in this process, as long as something refers to this.

    Attributes:
        address: where it begins here.
    """

    def __init__(self, address: int, close: Callable[[int], None]) -> None:
        """`close`: what closes an address."""
        self.address = address
        self.close = weakref.finalize(self, close, address)  # is done once, whoever asks for it
        self.close.atexit = False  # a process that ends closes everything, and CUDA may have gone before


class Opened:
    """Allocations that are open in this process, each once."""

    def __init__(self, open_: Callable[[Foreign], int], close: Callable[[int], None]) -> None:
        """Make it of what opens an allocation, returning its address here, and what closes an address."""
        self._open, self._close = open_, close
        self._mappings: WeakValueDictionary[Foreign, Mapping] = WeakValueDictionary()

    def mapping(self, allocation: Foreign) -> Mapping:
        """It, open; opens it if it is not open, and closes what it has replaced."""
        found = self._mappings.get(allocation)
        if found is None:
            self._close_replaced(allocation)
            found = self._mappings[allocation] = Mapping(self._open(allocation), self._close)
        return found

    def _close_replaced(self, allocation: Foreign) -> None:
        for other, mapping in list(self._mappings.items()):
            if allocation.replaces(other):
                mapping.close()

    def close(self) -> None:
        """Close them all."""
        for mapping in list(self._mappings.values()):
            mapping.close()
        self._mappings.clear()
