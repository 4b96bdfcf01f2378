"""Ours beside the libraries at each address that a buffer may have within a page, on 2 ranks of this machine."""

from __future__ import annotations

from hpcdist.bench import beside, options
from hpcdist.bench.beside import Beside
from hpcdist.bench.draft import Draft
from hpcdist.bench.node import here
from hpcdist.bench.peers import MPIS
from hpcdist.bench.record import Part
from hpcdist.bench.rounds import AT_LEAST, LEAST_ROUNDS, Asked
from hpcdist.bench.task import ADDRESSED, ADDRESSES, AUTO, LIBRARY, Samples, addressed

PART = "addresses"
SIZES = "8,1KiB,4KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB,256MiB"
RANKS, SECONDS = 2, 1800.0
PAIRS = tuple((addressed(AUTO, name), addressed(LIBRARY, name)) for name in ADDRESSES)
SAMPLES = Samples(3, 21, 50, 1)


def measure(draft: Draft[Part], asked: Beside, sizes: tuple[int, ...], rounds: int, seconds: float) -> None:
    """Ours and the library's own on 2 ranks of each MPI."""
    part, found = asked.begin(draft, PART, MPIS)
    effort = Asked(PART, RANKS, rounds, min(LEAST_ROUNDS, rounds), seconds, PAIRS)
    here(draft, part, found, effort, sizes, SAMPLES, lambda peer: tuple(ADDRESSED))


command = beside.verb(
    PART,
    "Ours beside the libraries at each address within a page, on 2 ranks of this machine.",
    measure,
    options.sizes(SIZES),
    options.rounds(11, AT_LEAST),
    options.seconds(SECONDS),
)
