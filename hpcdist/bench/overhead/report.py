"""`hpcdist bench overhead`: its options, its rows, its tables.

The figures are ratios within rounds, so that a drift of the machine cancels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import field

from hpcdist.bench import options, page, saved
from hpcdist.bench.draft import Draft, Kind
from hpcdist.bench.jobs import everywhere
from hpcdist.util.sampling import Spread
from hpcdist.util.sizes import BYTES, format_bytes

NONE, BACKGROUND, SINGLE = "no checkpoints", "background shards", "single writer, waiting"
KINDS = (NONE, BACKGROUND, SINGLE)


class Period(saved.Row):
    """Steps of one kind: seconds of all, and of what they were held up by each checkpoint, on the slowest rank."""

    kind: str
    seconds: float
    blocking: list[float]


class Part(saved.Part):
    """A number of ranks.

    Attributes:
        rows: Round by round, one period of each of KINDS.
        state: Bytes of parameters and momentum.
        steps: Of a period.
        saves: In a period.
        seconds_per_step: Before all.
    """

    rows: list[Period] = field(default_factory=list)
    state: int = 0
    steps: int = 0
    saves: int = 0
    seconds_per_step: float = 0.0


EXPLANATION = """\
Median, and in brackets the range of the middle 80 %, of checkpoints in the first column, of rounds in the others.
"""


def text(report: saved.Report[Part], figures: Mapping[str, str]) -> str:
    """The report as Markdown."""
    body = [EXPLANATION]
    for name, part in report.parts.items():
        if part.rows:
            body += [f"## {name}", "", _what(part), "", *page.rows(HEAD, costs(part.rows))]
    return page.page("What checkpoints cost a training run", report, body, "")


def _what(part: Part) -> str:
    return (
        f"A multi-layer perceptron with {format_bytes(part.state)} of parameters and momentum, "
        f"{part.seconds_per_step:.2f} s a step; {len(part.rows) // len(KINDS)} rounds of periods of {part.steps} steps "
        f"with {part.saves} checkpoints each."
    )


HEAD = ("checkpoints", "held up by one [ms]", "held up, share of the run", "run longer by")


def costs(rows: Sequence[Period]) -> Iterator[list[str]]:
    """What checkpoints of each kind cost, over the rounds: a period beside that without checkpoints in its round."""
    periods = {kind: [row for row in rows if row.kind == kind] for kind in KINDS}
    for kind in (BACKGROUND, SINGLE):
        beside = list(zip(periods[kind], periods[NONE], strict=True))
        yield [
            kind,
            page.milliseconds(Spread.of([seconds for row in periods[kind] for seconds in row.blocking])),
            page.percent(Spread.of([sum(row.blocking) / row.seconds for row in periods[kind]]), 2),
            page.percent(Spread.of([row.seconds / none.seconds - 1 for row, none in beside]), 2),
        ]


KIND = Kind("overhead", "checkpoints", Part, text)


def measure(draft: Draft[Part], ranks: tuple[int, ...], scratch: Path, **asked: Any) -> None:
    """A job for each number of ranks."""
    everywhere(draft, "hpcdist.bench.overhead.ranks", asked, ranks, scratch=scratch)


command = options.verb(
    KIND,
    "overhead",
    "What checkpoints cost a data-parallel training run.",
    measure,
    click.option("--state", type=BYTES, default="512MiB", show_default=True, help="Parameters and momentum, at least."),
    click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples per step."),
    click.option(
        "--every", type=click.FloatRange(min=0.1), default=30, show_default=True, help="Seconds between saves."
    ),
    options.numbers("--ranks", "4", "Of this machine.", least=1),
    options.rounds(3, "So many."),
    options.seconds(90, "About so long for a period."),
    options.scratch(),
)
