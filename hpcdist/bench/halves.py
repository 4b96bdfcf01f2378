"""Sums of half types beside those of float32: how many elements a second, where memory is the limit."""

from __future__ import annotations

from hpcdist.bench import beside, options
from hpcdist.bench.beside import Beside
from hpcdist.bench.draft import Draft
from hpcdist.bench.node import here
from hpcdist.bench.peers import MPIS
from hpcdist.bench.record import Part
from hpcdist.bench.rounds import Asked
from hpcdist.bench.task import HALVES, KINDS, ORDINARY, REGISTERED, Samples

PART = "halves"
SIZES = "16MiB,64MiB,256MiB"  # of float32
RANKS, SECONDS = 2, 300.0
PAIRS = tuple((f"float32, {kind}", f"{half}, {kind}") for kind in (ORDINARY, REGISTERED) for half in HALVES)
SAMPLES = Samples(3, 11, 4, 1)


def measure(draft: Draft[Part], asked: Beside, sizes: tuple[int, ...], rounds: int, seconds: float) -> None:
    """Ours on 2 ranks of each MPI."""
    part, found = asked.begin(draft, PART, MPIS)
    here(draft, part, found, Asked(PART, RANKS, rounds, rounds, seconds, PAIRS), sizes, SAMPLES, lambda _: tuple(KINDS))


command = beside.verb(
    PART,
    "Half types beside float32 on 2 ranks of this machine.",
    measure,
    options.sizes(SIZES),
    options.rounds(11, "So many."),
    options.seconds(SECONDS),
)
