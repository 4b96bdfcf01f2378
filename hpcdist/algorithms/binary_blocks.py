"""Binary blocks: halving-doubling for any number of ranks, without folding anybody away."""

from __future__ import annotations

import numpy as np

from hpcdist.algorithms.halving import bit_reversed, halving_steps
from hpcdist.schedule.algebra import beside, mirror, on_groups, place, then
from hpcdist.schedule.ir import NO_ROWS, Rows, Schedule, Step, reduce_scatter_to


def blocks(size: int) -> list[range]:
    """The ranks of each block: the powers of two in `size`, largest first; 600 = 512 + 64 + 16 + 8."""
    powers = [1 << k for k in reversed(range(size.bit_length())) if size >> k & 1]
    starts = np.cumsum([0, *powers]).tolist()
    return [range(start, start + power) for start, power in zip(starts, powers, strict=False)]


def _halving(block: range, size: int, chunks: int) -> tuple[Step, ...]:
    """Recursive halving inside one block, on chunks as fine as the largest block's."""
    n = len(block)
    alone = Schedule("halving", n, n, halving_steps(n))
    return on_groups(place(alone, range(0, chunks + 1, chunks // n), chunks), [block], size)


def _hand_up(small: range, large: range, chunks: int) -> Step:
    """Each rank of a block sends its sums to the ranks of the next larger block that own the parts of its chunk.

    Nearest-first halving leaves rank i with chunk bit_reversed(i) in both blocks, so the chunk of a small block's
    rank is cut by the larger block's into whole chunks: every rank there hears exactly one sender.
    """
    dst = np.arange(len(large))
    chunk = bit_reversed(len(large).bit_length() - 1)  # of dst, in the larger block's chunks
    src = bit_reversed(len(small).bit_length() - 1)[chunk * len(small) // len(large)]
    width = chunks // len(large)
    return Step.of(Rows.of(src + small.start, dst + large.start, chunk * width, count=width, reduce=True))


def scatter_reduce(size: int) -> Schedule:
    """Halving in every block at once; then each block, from the smallest, hands its sums to the next larger one.

    Steps: t(largest), where t(b) = max(log2(b), t(next smaller)) + 1 and t(smallest) = log2(smallest); the step of
    handing from b to the next larger c has c / b messages per rank of b.
    Bytes sent per rank: (b - 1) / b * nbytes in the largest block, nbytes in the others.
    """
    all_blocks = blocks(size)
    chunks = len(all_blocks[0])
    parts: list[tuple[Step, ...]] = [_halving(block, size, chunks) for block in all_blocks]
    ready = 0  # the step from which a block's sums are complete
    for small, large in zip(all_blocks[:0:-1], all_blocks[-2::-1], strict=True):
        ready = max(len(small).bit_length() - 1, ready)
        start = max(len(large).bit_length() - 1, ready)
        parts.append((*[Step.of(NO_ROWS)] * start, _hand_up(small, large, chunks)))
        ready = start + 1
    owner = bit_reversed(chunks.bit_length() - 1)
    alike = len(all_blocks) == 1
    return Schedule("binary_blocks scatter_reduce", size, chunks, beside(parts), reduce_scatter_to(owner), alike=alike)


def all_gather(size: int) -> Schedule:
    """The scatter-reduce backwards: each block gets the pieces from the next larger one, and doubles inside.

    Steps: those of `scatter_reduce`.
    Bytes sent per rank: nbytes in every block that has a smaller one, (b - 1) / b * nbytes in the smallest.
    """
    return mirror(scatter_reduce(size), "binary_blocks all_gather")


def binary_blocks(size: int) -> Schedule:
    """All-reduce by halving-doubling inside blocks of a power of two, which pass their sums up and down.

    It wins with few, adjacent powers of two (12 = 8 + 4); many small blocks cost bytes (31 = 16+8+4+2+1), a small
    block beside a large one costs messages (33 = 32 + 1: one rank serves 32).

    Steps: 2 t(largest), see `scatter_reduce`. Bytes sent per rank: at most 2 nbytes.
    Source: Rabenseifner, Optimization of collective reduction operations, ICCS 2004; Gloo's description of it.
    """
    return then(scatter_reduce(size), all_gather(size), "binary_blocks")
