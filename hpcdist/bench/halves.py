"""Sums of half types beside those of float32: how many elements a second, where memory is the limit."""

from __future__ import annotations

from dataclasses import dataclass

from hpcdist.bench.peers import MPIS, Peer
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Here
from hpcdist.bench.task import HALVES, KINDS, ORDINARY, REGISTERED, Task

PART = "halves"
SIZES = "16MiB,64MiB,256MiB"  # of float32
RANKS = 2
PAIRS = tuple((f"float32, {kind}", f"{half}, {kind}") for kind in (ORDINARY, REGISTERED) for half in HALVES)
LEAST, MOST, ITERATIONS, WARMUP = 3, 11, 4, 1


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long; one field per option."""

    sizes: tuple[int, ...]
    rounds: int
    seconds: float


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs."""
    return tuple(KINDS)


def measure(draft: Draft, options: Options) -> None:
    """Ours on 2 ranks of each MPI."""
    part, found = draft.begin(PART, MPIS, vars(options))
    asked = Asked(PART, RANKS, options.rounds, options.rounds, options.seconds, PAIRS)
    seconds = case_seconds(asked, len(found), len(options.sizes), len(KINDS))
    task = Task(options.sizes, (), "", seconds, LEAST, MOST, ITERATIONS, WARMUP, 0)
    Rounds(draft.report, part, draft.write, Here(), found, asked, task, cases).run()
