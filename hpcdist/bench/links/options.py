"""The options that the program on the ranks and the command that makes virtual clusters for it have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from hpcdist.algorithms import ALLREDUCE, allreduce
from hpcdist.util.sizes import BYTES, parse_bytes

SIZES = "8,1KiB,64KiB,256KiB,1MiB,4MiB,16MiB"
# Where every rank has a host of its own, hierarchical is the algorithm that it runs between hosts.
ALGORITHMS = ",".join(name for name in ALLREDUCE if name != "hierarchical")
LEAST = 5  # rounds of each size, however long they take


class Listed(click.ParamType):
    """Values separated by commas, each once; `read` makes one of its text, or raises ValueError."""

    def __init__(self, name: str, read: Callable[[str], Any]):
        self.name, self.read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Split and read; a default may be a tuple already."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(dict.fromkeys(self.read(text.strip()) for text in value.split(",")))
        except ValueError as error:
            self.fail(str(error), param, ctx)


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
class Settings:
    """What to measure and for how long; one field per option."""

    sizes: tuple[int, ...]
    algorithms: tuple[str, ...]
    segment_bytes: int
    rounds: int
    seconds: float

    def flags(self) -> list[str]:
        """The settings as a command line says them."""
        return [
            "--sizes", ",".join(map(str, self.sizes)),
            "--algorithms", ",".join(self.algorithms),
            "--segment-bytes", str(self.segment_bytes),
            "--rounds", str(self.rounds),
            "--seconds", str(self.seconds),
        ]  # fmt: skip


_OPTIONS: Sequence[Callable] = (
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


def settings(command: Callable) -> Callable:
    """Give a click command the options that make `Settings`."""
    return with_options(command, _OPTIONS)


def with_options(command: Callable, options: Sequence[Callable]) -> Callable:
    """Give a click command some options, in this order."""
    for option in reversed(options):
        command = option(command)
    return command
