"""Ours beside the libraries at each address that a buffer may have within a page, on 2 ranks of this machine."""

from __future__ import annotations

from dataclasses import dataclass

from hpcdist.bench.node import fitting
from hpcdist.bench.peers import MPIS, Peer
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Here
from hpcdist.bench.task import ADDRESSED, ADDRESSES, AUTO, LIBRARY, Task, addressed

PART = "addresses"
SIZES = "8,1KiB,4KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB,256MiB"
RANKS = 2
PAIRS = tuple((addressed(AUTO, name), addressed(LIBRARY, name)) for name in ADDRESSES)
LEAST, MOST, ITERATIONS, WARMUP = 3, 21, 50, 1
LEAST_ROUNDS = 5  # of fewer there are no bounds


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long; one field per option."""

    sizes: tuple[int, ...]
    rounds: int
    seconds: float


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs."""
    return tuple(ADDRESSED)


def measure(draft: Draft, options: Options) -> None:
    """Ours and the library's own on 2 ranks of each MPI."""
    part, found = draft.begin(PART, MPIS, vars(options))
    asked = Asked(PART, RANKS, options.rounds, min(LEAST_ROUNDS, options.rounds), options.seconds, PAIRS)
    sizes = fitting(part, options.sizes, RANKS)
    seconds = case_seconds(asked, len(found), len(sizes), len(ADDRESSED))
    task = Task(sizes, (), "", seconds, LEAST, MOST, ITERATIONS, WARMUP, 0)
    Rounds(draft.report, part, draft.write, Here(), found, asked, task, cases).run()
