"""Pairwise exchange: all-to-all in size - 1 rounds in which everybody sends to one and receives from one."""

from __future__ import annotations

import numpy as np

from hpcdist.schedule.ir import ALLTOALL, Rows, Schedule, Step


def _round(size: int, distance: int) -> Step:
    """Rank i sends the part meant for rank i + distance (mod size), which keeps it as its part number i."""

    def make(rank: int | None) -> Rows:
        src = np.arange(size) if rank is None else np.array([rank, rank - distance]) % size
        dst = (src + distance) % size
        rows = Rows.of(src, dst, size + dst, dst_chunk=src, reduce=False)
        return rows.select(slice(1)) if rank is not None and distance == 0 else rows

    return Step(make)


def pairwise(size: int) -> Schedule:
    """All-to-all by pairwise exchange; the first step is each rank's copy to itself.

    Steps: size. Bytes sent per rank: (size - 1) / size * nbytes.
    Source: Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005.
    """
    steps = tuple(_round(size, distance) for distance in range(size))
    return Schedule("pairwise", size, size, steps, ALLTOALL, input_chunks=size, alike=True)
