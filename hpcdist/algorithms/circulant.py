"""Circulant: as few steps as halving-doubling and as few bytes as a ring, for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hpcdist.schedule.algebra import mirror, then
from hpcdist.schedule.ir import Rows, Schedule, Step, reduce_scatter_to


def _reaches(size: int) -> Iterator[tuple[int, int]]:
    """(how far, how many chunks) for each step: half of the chunks that a rank still works on, until 1 is left."""
    left = size
    while left > 1:
        reach = (left + 1) // 2
        yield reach, left - reach
        left = reach


def _hand_on(size: int, reach: int, chunks: int) -> Step:
    """Every rank sends its sums of the `chunks` chunks from that of rank i + reach (mod size) on to that rank.

    A run of chunks that goes on at the buffer's beginning is two messages.
    """

    def make(rank: int | None) -> Rows:
        src = np.arange(size) if rank is None else np.array([rank - reach, rank]) % size
        dst = (src + reach) % size
        here = np.minimum(chunks, size - dst)
        rest = Rows.of(src, dst, 0, count=chunks - here, reduce=True)
        return Rows.concatenate([Rows.of(src, dst, dst, count=here, reduce=True), rest.select(rest.count > 0)])

    return Step(make)


def scatter_reduce(size: int) -> Schedule:
    """Rank i works on the chunks from i on, at first all of them; in each step it hands the far half on.

    Steps: ceil(log2(size)), of at most 2 messages per rank. Bytes sent per rank: (size - 1) / size * nbytes.
    """
    steps = tuple(_hand_on(size, reach, chunks) for reach, chunks in _reaches(size))
    return Schedule("circulant scatter_reduce", size, size, steps, reduce_scatter_to(np.arange(size)))


def all_gather(size: int) -> Schedule:
    """The scatter-reduce backwards, which is Bruck's all-gather but for the order of distances.

    Steps and bytes: those of `scatter_reduce`.
    """
    return mirror(scatter_reduce(size), "circulant all_gather")


def circulant(size: int) -> Schedule:
    """All-reduce by halving on a circle, where the number of ranks need not be a power of two.

    Nobody is folded away and there are no blocks; a rank sends to one rank and hears another. What it asks for is a
    network that is equally fast between all ranks, as its largest messages go farthest. At powers of two
    halving_doubling does the same in messages that are never cut in two.

    Steps: 2 ceil(log2(size)), of at most 2 messages per rank.
    Bytes sent per rank: 2 (size - 1) / size * nbytes, the least possible.
    Source: Traeff, Optimal, non-pipelined reduce-scatter and allreduce algorithms, arXiv 2410.14234; Bruck et al.,
    IEEE TPDS 8(11), 1997, for the all-gather.
    """
    return then(scatter_reduce(size), all_gather(size), "circulant")
