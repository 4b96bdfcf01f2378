"""How arrays pass through bounce buffers: in which pieces, by which schedule, and what a bounce buffer is made of.

A bounce buffer begins with a page for the rank's flag. Behind it there are slots, taken in turn, each for a piece of an
array; that of a small array begins with a number, by which ranks see whether they mean the same call.
"""

from __future__ import annotations

import mmap

from hpcdist.algorithms.shared import one_shot, two_shot
from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout

SMALL = 4096  # bytes of an array that every rank reduces for itself
PIECE = 1 << 18  # bytes of a piece of others, so that all of it stays in the second cache
LINE = 128  # bytes: slots begin with a cache line, and processors fetch pairs of them
SLOTS = 3
HEAD = mmap.PAGESIZE  # bytes before the slots
NUMBER = 16  # bytes of a slot before a small array, so that the first elements come in the same cache line


def length_of(nbytes: int) -> int:
    """Bytes of a slot for an array of `nbytes`; of all small arrays alike, as they may share a bounce buffer."""
    length = NUMBER + SMALL if nbytes <= SMALL else min(nbytes, PIECE)
    return -(-length // LINE) * LINE


def nbytes_for(nbytes: int) -> int:
    """Bytes of a bounce buffer for an array of `nbytes`."""
    return HEAD + SLOTS * length_of(nbytes)


def pieces_of(nbytes: int) -> int:
    """Into how many pieces an array of `nbytes` is cut."""
    return max(1, -(-nbytes // length_of(nbytes)))


def schedule(size: int, nbytes: int) -> Schedule:
    """What runs on arrays of `nbytes`."""
    return one_shot(size) if nbytes <= SMALL else two_shot(size, pieces_of(nbytes))


def layout(size: int, nbytes: int, itemsize: int) -> Layout:
    """Where the chunks of that schedule lie."""
    count, chunks = nbytes // itemsize, schedule(size, nbytes).chunks
    if chunks == 1:
        return Layout(1, count)
    length = length_of(nbytes) // itemsize
    firsts = range(0, count, length)
    starts = [first + min(length, count - first) * rank // size for first in firsts for rank in range(size)]
    return Layout(chunks, count, starts=tuple(starts))
