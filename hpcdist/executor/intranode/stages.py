"""The parts of a run in shared memory, each of which can be begun, gone on with, and asked whom it waits for.

A part of the buffer is reduced in pieces that stay in cache, in the order of the ranks, so that the bits are the same
everywhere. A 16-bit type is summed in float32 over all ranks of the node and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.executor.bind import BoundProgram
from hpcdist.kernels import reduce as kernels
from hpcdist.transport.barrier_words import ONE_LOOK, late

if TYPE_CHECKING:
    from hpcdist.kernels.in_order import Reduction

PIECE = 1 << 15  # bytes reduced at a time by NumPy, whose calls want to be worth it


class Do:
    """Something that is done at once."""

    def __init__(self, do: Callable[[], object]) -> None:
        self._do = do

    def begin(self) -> None:
        """Nothing."""

    def attempt(self, looks: int) -> bool:
        """Do it."""
        self._do()
        return True

    def waits_for(self) -> str:
        """It never waits."""
        return "nobody"

    def free(self) -> None:
        """Nothing to give up."""


class Across:
    """Messages between nodes."""

    def __init__(self, program: BoundProgram) -> None:
        self._program = program
        self.begin, self.waits_for, self.free = program.start, program.describe, program.free

    def attempt(self, looks: int) -> bool:
        """Go on with them."""
        if looks > ONE_LOOK:
            self._program.wait()
        return self._program.test()


class Compiled:
    """A whole run on one node in compiled code."""

    def __init__(self, code: ModuleType, job: NDArray[np.int64], ranks: Sequence[int], *keep: object) -> None:
        """`code` runs the `job`, in which are addresses of what is to be kept."""
        self._job, self._ranks, self._keep = job, ranks, keep
        self._begin, self._advance, self._run, self._awaited = code.begin, code.advance, code.run, code.awaited

    def begin(self) -> None:
        """Say that the own input is there."""
        self._begin(self._job)

    def attempt(self, looks: int) -> bool:
        """Go on."""
        return self._advance(self._job, looks)

    def run(self, looks: int) -> bool:
        """`begin` and `attempt` in one."""
        return self._run(self._job, looks)

    def waits_for(self) -> str:
        """The first rank whose flag was not seen raised."""
        return f"rank {late(self._job, self._ranks)} to have {self._awaited(self._job)}"

    def free(self) -> None:
        """Nothing to give up."""


def reduction(sources: Sequence[NDArray], destinations: Sequence[NDArray], op: str, *, compiled: bool) -> Do:
    """The stage that combines the sources in order and copies the result to all destinations."""
    if compiled:
        return Do(compiled_reduction(sources, destinations, op))
    return Do(partial(reduce_in_pieces, sources, destinations, op))


def compiled_reduction(sources: Sequence[NDArray], destinations: Sequence[NDArray], op: str) -> Reduction:
    """The same, compiled, for aligned arrays; only where there is Numba."""
    from hpcdist.kernels.in_order import Reduction

    one = sources[0]
    return Reduction(one.dtype, [*map(address_of, sources)], [*map(address_of, destinations)], one.size, op)


def reduce_in_pieces(sources: Sequence[NDArray], destinations: Sequence[NDArray], op: str) -> None:
    """Combine the sources in order and copy the result to all destinations; "avg" divides by how many sources."""
    dtype, count = sources[0].dtype, len(sources[0])
    wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
    length = PIECE // wide.itemsize
    with np.errstate(all="ignore"):
        for first in range(0, count, length):
            piece = slice(first, first + length)
            total = _combined([source[piece] for source in sources], kernels.binary(op), wide)
            if op == "avg":
                kernels.average(total, len(sources))
            for destination in destinations:
                destination[piece] = total


def _combined(pieces: Sequence[NDArray], combine: np.ufunc, wide: np.dtype) -> NDArray:
    """A new array: into an old one, NumPy would keep the other one of two NaNs of a single element."""
    first, *others = (piece.astype(wide, copy=False) for piece in pieces)
    if not others:
        return first.copy()
    total = combine(first, others[0])
    for other in others[1:]:
        total = combine(total, other, out=total) if len(total) > 1 else combine(total, other)
    return total


def finish(mine: NDArray, others: Sequence[NDArray], op: str, size: int) -> None:
    """Copy this rank's part of the result to the others of the node; the sum is divided first if it is to be."""
    with np.errstate(all="ignore"):
        if op == "avg":
            kernels.average(mine, size)
    for other in others:
        np.copyto(other, mine)
