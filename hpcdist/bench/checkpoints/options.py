"""The options that the program on the ranks and the command that starts it have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from hpcdist.bench import jobs
from hpcdist.bench.checkpoints.rounds import LEAST
from hpcdist.bench.checkpoints.state import UNIT
from hpcdist.util.parameters import Listed, options
from hpcdist.util.sizes import parse_bytes

SIZES = "1MiB,4MiB,16MiB,64MiB,256MiB,1GiB,4GiB"


def _size(text: str) -> int:
    nbytes = parse_bytes(text)
    if nbytes < UNIT or nbytes % UNIT:
        raise ValueError(f"{text!r} is no multiple of {UNIT} bytes, of which the arrays are made")
    return nbytes


@dataclass(frozen=True)
class Settings(jobs.Settings):
    """What to measure, where and for how long."""

    rounds: int
    seconds: float
    scratch: Path
    torch: Path | None


settings = options(
    click.option("--sizes", type=Listed("sizes", _size), default=SIZES, show_default=True, help="Of the state."),
    click.option("--rounds", type=click.IntRange(min=LEAST), default=20, show_default=True, help="At most so many."),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, max=86400),
        default=300,
        show_default=True,
        help=f"About so long for a number of ranks; {LEAST} rounds of each size are always done.",
    ),
    click.option(
        "--scratch",
        type=click.Path(file_okay=False, exists=True, path_type=Path),
        default=".",
        show_default=True,
        help="A folder on the file system to be measured; what is written there is removed.",
    ),
    click.option(
        "--torch",
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="A Python that has torch; without it, torch is left out.",
    ),
)
