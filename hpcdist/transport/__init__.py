"""How a transfer moves: what the executor asks of MPI, of threads, and of every transport to come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Library:
    """The message-passing library itself, for compiled code: addresses of C functions, and what they want to be told.

    The functions are MPI_Isend, MPI_Start, MPI_Test and MPI_Get_count.
    """

    isend: int
    start: int
    test: int
    get_count: int
    byte: int  # the handle of the datatype
    status_nbytes: int
    yields: bool  # whether a rank that waits gives its core away at each look
    error: Callable[[int], Exception]  # what to raise for an error code of these functions


@dataclass(frozen=True, slots=True)
class Native:
    """A request as compiled code sees it.

    Attributes:
        library: which it belongs to.
        address: of the handle.
        due: bytes that a receive must bring; -1 for a send.
        message: of a send, the arguments of MPI_Isend before the handle.
        owner: keeps the handle.
    """

    library: Library
    address: int
    due: int
    message: tuple[int, ...]
    owner: object


class Request(Protocol):
    """A message that is bound to its memory once and then sent (or received) any number of times.

    `start` begins: the memory belongs to the transport until `wait` returns or `test` says True. A receive raises
    TransferError there unless exactly the bytes expected came. `free` gives the binding up.

    `native`, if not None, is for compiled code, which then does without the others.
    """

    @property
    def native(self) -> Native | None:
        """The library's own handle."""

    @property
    def start(self) -> Callable[[], None]:
        """Begin."""

    @property
    def wait(self) -> Callable[[], object]:
        """Block until complete."""

    @property
    def test(self) -> Callable[[], bool]:
        """Whether it is complete."""

    @property
    def free(self) -> Callable[[], None]:
        """Give up the binding."""


class Transport(Protocol):
    """A group of ranks that exchange messages; those of a pair with one tag arrive in the order they were started."""

    rank: int
    size: int

    def send(self, memory: NDArray, peer: int, tag: int) -> Request:
        """Bind a send of contiguous `memory` to rank `peer`."""

    def receive(self, memory: NDArray, peer: int, tag: int) -> Request:
        """Bind a receive into contiguous `memory` from rank `peer`."""


class TransferError(RuntimeError):
    """A message of another length came than the schedule says."""

    @classmethod
    def of(cls, got: int, expected: int, peer: int) -> TransferError:
        """The error for `got` bytes where `expected` were due."""
        return cls(f"rank {peer} sent {got} bytes where {expected} were due: {_OTHER_PLANS}")

    @classmethod
    def refused(cls, sent: int, expected: int, peer: int) -> TransferError:
        """The error for `sent` bytes to a rank where `expected` are due."""
        return cls(f"rank {peer} does not take {sent} bytes where {expected} are due: {_OTHER_PLANS}")


_OTHER_PLANS = "the ranks run different plans under one tag. Call plans in the same order on all ranks."
