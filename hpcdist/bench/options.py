"""Commands that measure: the options that they have in common, each with one meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hpcdist.bench.draft import Kind, drafted, measured
from hpcdist.cluster import plan
from hpcdist.cluster.command import RATE
from hpcdist.util.parameters import Listed, options
from hpcdist.util.sizes import parse_bytes


def files(kind: Kind) -> Callable:
    """Where a report goes."""
    return options(
        click.option(
            "--out",
            type=click.Path(file_okay=False, path_type=Path),
            default=f"results/{kind.folder}",
            show_default=True,
            help=f"Folder for {kind.name}.json, {kind.name}.md and figures.",
        ),
        click.option(
            "--json",
            type=click.Path(dir_okay=False, path_type=Path),
            help=f"File for the numbers, instead of {kind.name}.json in that folder.",
        ),
    )


def verb(kind: Kind, name: str, words: str, measure: Callable[..., None], *given: Callable) -> click.Command:
    """A command that calls `measure` with a draft and what it was given, and writes the report."""

    def run(out: Path, json: Path | None, **asked: Any) -> None:
        draft = drafted(kind, out, json)
        measured(draft, lambda: measure(draft.asked(asked), **asked))

    words += "\n\nParts are kept: one that is measured again replaces what the report had of it. Ctrl-C keeps what was "
    words += "measured. Exits with 1 if anything went wrong or a job failed."
    return click.command(name, help=words)(options(*given, files(kind))(run))


def float32s(text: str) -> int:
    """Bytes of whole float32 elements; ValueError if the text says another size."""
    nbytes = parse_bytes(text)
    if nbytes < 4 or nbytes % 4:
        raise ValueError(f"{text!r} is no whole number of float32, which take 4 bytes each")
    return nbytes


def sizes(default: str, read: Callable[[str], int] = float32s, words: str = "Of buffers.") -> Callable:
    """Which sizes to measure."""
    return click.option("--sizes", type=Listed("sizes", read), default=default, show_default=True, help=words)


def numbers(name: str, default: str, words: str, least: int = 2, none: bool = False) -> Callable:
    """Numbers of ranks, or of hosts, each from `least` on; 0 where there may be none of them."""

    def read(text: str) -> int:
        if none and text == "0":
            return 0
        if not text.isdecimal() or not least <= int(text) <= plan.MOST_HOSTS:
            raise ValueError(f"{text!r} is no number of ranks from {least} to {plan.MOST_HOSTS}")
        return int(text)

    return click.option(name, type=Listed("numbers", read), default=default, show_default=True, help=words)


def rounds(default: int, words: str = "At most, of each size.", least: int = 1) -> Callable:
    """How many rounds."""
    allowed = click.IntRange(min=least, max=1000)
    return click.option("--rounds", type=allowed, default=default, show_default=True, help=words)


def seconds(default: float, words: str = "About so long.") -> Callable:
    """How much time."""
    allowed = click.FloatRange(min=0, max=10 * 86400)
    return click.option("--seconds", type=allowed, default=default, show_default=True, help=words)


def scratch(words: str = "A folder on the file system to be measured; what is written there is removed.") -> Callable:
    """Where temporary files go."""
    place = click.Path(file_okay=False, exists=True, path_type=Path)
    return click.option("--scratch", type=place, default=".", show_default=True, help=words)


NAME = click.option("--name", default="bench", show_default=True, help="Of the cluster that is made, and ended.")
RATES = click.option(
    "--rates", type=Listed("rates", plan.parse_rate), default="200mbit,1gbit", show_default=True, help="Of links."
)
ONE_RATE = click.option("--rate", type=RATE, default="200mbit", show_default=True, help="Of virtual hosts' links.")
