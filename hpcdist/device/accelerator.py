"""What the rest of the house asks of a device: memory, streams of work in it, events, and memory of other processes.

Work is submitted to a stream and done later, in the order of that stream; a call returns at once. What one stream does
after another's work, and what the host may touch, is said with events, never by stopping the whole device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

DeviceArray = Any  # contiguous, with the attributes of a NumPy array: dtype, size, nbytes, reshape, view, slices


class Event(Protocol):
    """The point in a stream where all work submitted before it is done."""

    def done(self) -> bool:
        """Whether it is reached; raises what the device says is wrong."""

    def wait(self) -> None:
        """Block this thread until it is reached."""


class Stream(Protocol):
    """Work on a device in the order in which it was submitted. Arrays must stay alive until it is done."""

    def record(self) -> Event:
        """An event after everything submitted so far."""

    def follow(self, event: Event) -> None:
        """Let all that is submitted from now on wait for the event, on the device."""

    def copy(self, target: Any, source: Any) -> None:
        """Copy bytes between arrays of equal nbytes, each in device memory or page-locked host memory."""

    def combine(self, op: str, targets: Sequence[Any], sources: Sequence[Any]) -> None:
        """Put `sources` combined, first with second, the result with the third, ..., into all `targets`.

        Arrays have one dtype and size. A target may be one of the sources. 16-bit types are combined in float32 and
        rounded once. "avg" only sums; see `average`. Sources may lie in page-locked host memory.
        """

    def average(self, total: Any, size: int) -> None:
        """Divide a sum over `size` ranks in place, as kernels.reduce.average does."""


@dataclass(frozen=True)
class Share:
    """Memory of another process on this host, so that it can be opened there; small, and sent in messages.

    Attributes:
        allocation: what the device calls the whole allocation, unique as long as it lives; bytes.
        offset: bytes from its beginning.
        nbytes: bytes of the part.
    """

    allocation: bytes
    offset: int
    nbytes: int


class Accelerator(Protocol):
    """A device in the hands of this process.

    Attributes:
        kind: "cuda".
        identity: which physical device, the same text in all processes that use it, such as its PCI address.
        name: what its maker calls it.
    """

    kind: str
    identity: str
    name: str

    def use(self) -> None:
        """Make it the current device of this thread, as MPI wants it that is handed its memory."""

    def problem_with(self, name: str, array: DeviceArray, writable: bool) -> str | None:
        """Why `array` cannot be a communication buffer, in words; None if it can."""

    def dtype_of(self, array: DeviceArray) -> np.dtype:
        """The element type under hpcdist's name: uint16 stands for bfloat16, which CuPy does not have."""

    def empty(self, count: int, dtype: DTypeLike) -> DeviceArray:
        """Flat device memory from a plain allocation, which MPI and other processes can use."""

    def put(self, values: NDArray) -> DeviceArray:
        """A copy of a host array in device memory; complete when this returns."""

    def get(self, array: DeviceArray) -> NDArray:
        """A copy of a device array in host memory; complete when this returns."""

    def pinned(self, count: int, dtype: DTypeLike) -> NDArray:
        """Flat page-locked host memory, which copies of streams need."""

    def stream(self) -> Stream:
        """A new stream, which waits for no other by itself."""

    def current(self) -> Stream:
        """The stream in which the caller's own work goes: it makes what is sent, and uses what is received."""

    def unshareable(self, array: DeviceArray) -> str | None:
        """Why other processes on this host cannot open this memory (a stream-ordered pool, managed), or None."""

    def share(self, array: DeviceArray) -> Share:
        """What another process needs to open it."""

    def opened(self, share: Share, dtype: DTypeLike) -> DeviceArray:
        """Memory of another process, flat; each allocation is opened once, and open as long as an array is of it."""

    def close(self) -> None:
        """Close all memory of other processes; nothing that refers to it may be used again."""


def idle(accelerator: Accelerator, count: int, dtype: DTypeLike) -> DeviceArray:
    """Flat device memory as of `empty`, that nothing uses any more, so that all streams and MPI may write it at once.

    A pool gives memory away that queued work still reads, since it takes it that what comes next goes behind that in
    the current stream. For a message or another stream that is not so.
    """
    memory = accelerator.empty(count, dtype)
    if count:
        accelerator.current().record().wait()
    return memory


_FINDERS: list[Callable[[Any], Accelerator | None]] = []


def register(finder: Callable[[Any], Accelerator | None]) -> None:
    """Add a kind of device: a function that says on which device of that kind an array lies, or None."""
    _FINDERS.append(finder)


def accelerator_of(array: Any) -> Accelerator | None:
    """The device on which an array lies; None for host memory and for what is no array."""
    if type(array) is np.ndarray:  # the usual case
        return None
    return next((found for finder in _FINDERS if (found := finder(array))), None)
