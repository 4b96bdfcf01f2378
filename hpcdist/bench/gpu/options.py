"""The options that the program on the ranks and the command that starts them have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from hpcdist.algorithms import ALLREDUCE, SHARED, check
from hpcdist.bench import jobs
from hpcdist.bench.jobs import float32s
from hpcdist.device.paths import ASKABLE, AUTO, AWARE, PEER, STAGED
from hpcdist.util.parameters import Listed, options

SIZES = "4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB,256MiB"
ALGORITHMS = ",".join((*(name for name in ALLREDUCE if name != "hierarchical"), SHARED))  # there is but one node
LEAST = 5  # rounds of each size, however long they take


def _path(text: str) -> str:
    asked = [path for path in ASKABLE if path != AUTO]
    if text not in asked:
        raise ValueError(f"there is no path {text!r}; choose from {', '.join(asked)}")
    return text


@dataclass(frozen=True)
class Settings(jobs.Settings):
    """What to measure and for how long."""

    algorithms: tuple[str, ...]
    paths: tuple[str, ...]
    rounds: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON holds them."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


settings = options(
    click.option("--sizes", type=Listed("sizes", float32s), default=SIZES, show_default=True, help="Of the buffer."),
    click.option(
        "--algorithms",
        type=Listed("names", check),
        default=ALGORITHMS,
        show_default=True,
        help="Ours to measure.",
    ),
    click.option(
        "--paths",
        type=Listed("paths", _path),
        default=",".join((STAGED, AWARE, PEER)),
        show_default=True,
        help="On which; what this machine or its MPI cannot do is left out, and the report says why.",
    ),
    click.option("--rounds", type=click.IntRange(min=LEAST), default=31, show_default=True, help="At most so many."),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, max=3600),
        default=0.3,
        show_default=True,
        help=f"About so long for a case at a size; {LEAST} rounds are always done.",
    ),
)
