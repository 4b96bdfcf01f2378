"""An all-reduce of one's own: every rank sends to a centre, which adds up, and sends the sum to all.

hpcdist verify jobscripts/own_algorithm.py:star -n 1-16
hpcdist show jobscripts/own_algorithm.py:star -n 4
hpcdist run -n 4 -- python jobscripts/own_algorithm.py
"""

from __future__ import annotations

import numpy as np

from hpcdist import Rows, Schedule, Step


def star(size: int) -> Schedule:
    """Rank 0 is the centre, and the buffer is one chunk."""
    others = np.arange(1, size)
    gather = Rows.of(src=others, dst=0, chunk=0, reduce=True)
    scatter = Rows.of(src=0, dst=others, chunk=0, reduce=False)
    return Schedule("star", size, chunks=1, steps=[Step.of(gather), Step.of(scatter)])


def stars(size: int) -> Schedule:
    """As many stars as ranks: each is the centre of a chunk of its own, so that no link carries it all."""
    src, dst = np.divmod(np.arange(size * size), size)
    apart = src != dst
    src, dst = src[apart], dst[apart]
    gather = Rows.of(src, dst, chunk=dst, reduce=True)
    scatter = Rows.of(src, dst, chunk=src, reduce=False)
    return Schedule("stars", size, chunks=size, steps=[Step.of(gather), Step.of(scatter)])


def forgetful(size: int) -> Schedule:
    """A star whose last rank is told nothing: it is refused, and never runs."""
    whole = star(size)
    told = whole.steps[1].rows().select(slice(0, -1))
    return Schedule("forgetful", size, chunks=1, steps=[whole.steps[0], Step.of(told)])


def main() -> None:
    """Run both, and see that the third is refused."""
    from mpi4py import MPI

    import hpcdist

    comm = MPI.COMM_WORLD
    for schedule in (star(comm.size), stars(comm.size)):
        x = np.full(1000, float(comm.rank))
        with_it = hpcdist.plan(comm, x, algorithm=schedule)
        with_it()
        assert (x == comm.size * (comm.size - 1) / 2).all()
        with_it.close()
        if comm.rank == 0:
            print(f"{schedule.name}: {comm.size} ranks, {len(schedule.steps)} steps, right")
    if comm.size > 1:
        try:
            hpcdist.plan(comm, np.zeros(1000), algorithm=forgetful(comm.size))
        except hpcdist.ArgumentError as error:
            if comm.rank == 0:
                print(f"refused: {error}")


if __name__ == "__main__":
    main()
