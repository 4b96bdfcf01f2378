"""Each algorithm of ours beside the library's own all-reduce, on 2 ranks of this machine: what a bound plan costs."""

from __future__ import annotations

from dataclasses import dataclass

from hpcdist.bench.peers import MPIS, Peer
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Here
from hpcdist.bench.task import LIBRARY, NAMES, Task

PART = "algorithms"
SIZES = "8,4KiB,64KiB,1MiB,16MiB"
RANKS = 2
PAIRS = tuple((name, LIBRARY) for name in NAMES)
LEAST, MOST, ITERATIONS, WARMUP = 3, 31, 50, 2


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long; one field per option."""

    sizes: tuple[int, ...]
    rounds: int
    seconds: float


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs."""
    return LIBRARY, *NAMES


def measure(draft: Draft, options: Options) -> None:
    """Ours on 2 ranks of each MPI."""
    part, found = draft.begin(PART, MPIS, vars(options))
    asked = Asked(PART, RANKS, options.rounds, options.rounds, options.seconds, PAIRS)
    seconds = case_seconds(asked, len(found), len(options.sizes), 1 + len(NAMES))
    task = Task(options.sizes, (), "", seconds, LEAST, MOST, ITERATIONS, WARMUP, 0)
    Rounds(draft.report, part, draft.write, Here(), found, asked, task, cases).run()
