"""Arrays on a device, on their way to and from host memory; arrays that are there already are used where they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import Piece, rows_of
from hpcdist.device import Event, accelerator_of


def in_host(values: Any) -> NDArray:
    """The array, or a copy of it if it is on a device; of the same dtype."""
    device = accelerator_of(values)
    return device.get(values).view(values.dtype) if device else values


class Snapshot:
    """Copies of rows in host memory, which is kept for the next ones, as new memory takes twice as long.

    Attributes:
        memory: the last copies, by name.
    """

    def __init__(self) -> None:
        self._kinds: list[Any] = []
        self.memory: dict[str, NDArray] = {}

    def take(self, rows: Mapping[str, Any]) -> Mapping[str, NDArray]:
        """Copies of these rows; complete when this returns, and good until the next are taken."""
        kinds = [(name, values.shape, values.dtype, accelerator_of(values)) for name, values in rows.items()]
        if kinds != self._kinds:
            self.memory = {name: _memory_for(values) for name, values in rows.items()}
            self._kinds = kinds
        for event in [_copy(name, self.memory[name], values) for name, values in rows.items()]:
            if event:
                event.wait()
        return self.memory


def _memory_for(values: Any) -> NDArray:
    """Host memory for a copy; a device copies by itself where it is page-locked."""
    device = accelerator_of(values)
    if device is None or not values.size:
        return np.empty(values.shape, values.dtype)
    return device.pinned(values.size, values.dtype).reshape(values.shape)


def _copy(name: str, memory: NDArray, values: Any) -> Event | None:
    """Copy an array; from a device, behind what the caller has it do, and until the event."""
    device = accelerator_of(values)
    if device is None:
        np.copyto(memory, values)
        return None
    if not values.flags.c_contiguous:
        raise ValueError(f"{name} is on a device and has gaps; save a contiguous copy of it")
    stream = device.current()
    if values.size:
        stream.copy(memory, values)
    return stream.record()


class Landing:
    """Host memory in which pieces of arrays arrive, and out of which those on a device are filled."""

    def __init__(self, into: Mapping[str, Any]) -> None:
        self._into = into
        self._held: dict[tuple[str, int], NDArray] = {}

    def memory(self, name: str, piece: Piece) -> NDArray:
        """Where to put the rows of a piece; the same memory until they are delivered."""
        rows = rows_of(self._into[name], piece.start, piece.stop)
        if accelerator_of(rows) is None:
            return rows
        return self._held.setdefault((name, piece.start), np.empty(rows.shape, rows.dtype))

    def deliver(self, name: str, piece: Piece) -> None:
        """Let the array have the rows that have arrived."""
        held = self._held.pop((name, piece.start), None)
        rows = rows_of(self._into[name], piece.start, piece.stop)
        device = accelerator_of(rows)
        if device and held is not None:
            rows[...] = device.put(held)


def writable(values: Any) -> bool:
    """Whether an array can be read into: contiguous, and not read-only, which no array on a device is."""
    return values.flags.c_contiguous and (accelerator_of(values) is not None or values.flags.writeable)
