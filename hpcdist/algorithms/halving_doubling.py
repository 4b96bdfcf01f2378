"""Halving-doubling: few steps and few bytes, where the number of ranks is a power of two."""

from __future__ import annotations

from dataclasses import replace

from hpcdist.algorithms.halving import bit_reversed, fold, halving_steps, kept_by_fold, largest_power
from hpcdist.schedule.algebra import mirror, relabel, then
from hpcdist.schedule.ir import Schedule, reduce_scatter_to


def scatter_reduce(size: int) -> Schedule:
    """Recursive halving among p = 2**k ranks; the size - p others first add what they have to a neighbour.

    Steps: log2(p), and 1 more if size != p.
    Bytes sent per rank: (p - 1) / p * nbytes by those who stay, nbytes by those who fold away.
    """
    p = largest_power(size)
    halving = Schedule(
        "halving scatter_reduce", p, p, halving_steps(p), reduce_scatter_to(bit_reversed(p.bit_length() - 1))
    )
    if size == p:
        return replace(halving, alike=True)
    among_kept = relabel(halving, kept_by_fold(size), size)
    return replace(among_kept, steps=(fold(size, p), *among_kept.steps))


def all_gather(size: int) -> Schedule:
    """Recursive doubling: the halving backwards; those who folded away get the whole result at the end.

    Steps and bytes: those of `scatter_reduce`, sent by the other side.
    """
    return mirror(scatter_reduce(size), "doubling all_gather")


def halving_doubling(size: int) -> Schedule:
    """All-reduce by recursive halving and doubling, for any number of ranks (Rabenseifner's algorithm).

    Steps: 2 log2(p), and 2 more if size != p, with p the largest power of two <= size.
    Bytes sent per rank: 2 (p - 1) / p * nbytes; if size != p, at most nbytes more, by those who take in a neighbour.
    Source: Thakur, Rabenseifner and Gropp, Optimization of collective communication operations in MPICH,
    IJHPCA 19(1), 2005.
    """
    return then(scatter_reduce(size), all_gather(size), "halving_doubling")
