"""The options that the program on the ranks and the command that makes virtual clusters for it have in common."""

from __future__ import annotations

from dataclasses import dataclass

import click

from hpcdist.algorithms import ALLREDUCE, allreduce
from hpcdist.bench import jobs
from hpcdist.util.parameters import Listed, options
from hpcdist.util.sizes import BYTES, parse_bytes

SIZES = "8,1KiB,64KiB,256KiB,1MiB,4MiB,16MiB"
# Where every rank has a host of its own, hierarchical is the algorithm that it runs between hosts.
ALGORITHMS = ",".join(name for name in ALLREDUCE if name != "hierarchical")
LEAST = 5  # rounds of each size, however long they take


def float32s(text: str) -> int:
    """Bytes of whole float32 elements; ValueError if the text says another size."""
    nbytes = parse_bytes(text)
    if nbytes < 4 or nbytes % 4:
        raise ValueError(f"{text!r} is no whole number of float32, which take 4 bytes each")
    return nbytes


def algorithm(text: str) -> str:
    """The name of an all-reduce; ValueError if there is none."""
    allreduce(text, 1)
    return text


@dataclass(frozen=True)
class Settings(jobs.Settings):
    """What to measure and for how long."""

    algorithms: tuple[str, ...]
    segment_bytes: int
    rounds: int
    seconds: float


settings = options(
    click.option("--sizes", type=Listed("sizes", float32s), default=SIZES, show_default=True, help="Of the buffer."),
    click.option(
        "--algorithms",
        type=Listed("names", algorithm),
        default=ALGORITHMS,
        show_default=True,
        help="Ours to measure, beside the library's and raw TCP.",
    ),
    click.option("--segment-bytes", type=BYTES, default="60KiB", show_default=True, help="Of a pipeline segment."),
    click.option("--rounds", type=click.IntRange(min=1), default=30, show_default=True, help="At most so many."),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, max=86400),
        default=150,
        show_default=True,
        help=f"About so long for a number of ranks; {LEAST} rounds of each size are always done.",
    ),
)
