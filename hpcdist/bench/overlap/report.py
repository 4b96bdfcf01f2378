"""`hpcdist bench overlap`: its options, its rows, its tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from msgspec import field

from hpcdist.algorithms import check
from hpcdist.bench import options, page, saved
from hpcdist.bench.draft import Draft, Kind
from hpcdist.bench.jobs import everywhere
from hpcdist.util.parameters import Parsed
from hpcdist.util.sampling import Spread
from hpcdist.util.sizes import BYTES, format_bytes

SIZES = "256KiB,1MiB,4MiB,16MiB"
OURS, LIBRARY, WORK = "ours alone", "MPI_Iallreduce alone", "work alone"

EXPLANATION = """\
float32; work of one thread on each rank, about as long as the all-reduce. Share of the shorter of the two that was
hidden: 100 % if both together take as long as the longer one, 0 % if one comes after the other, less if they get in
each other's way. Median over rounds, and the range of the middle 80 %; in the second row the milliseconds that it took.
"""


class Found(saved.Row):
    """What was found at one size.

    Attributes:
        nbytes: Of the buffer.
        algorithm: Of ours.
        products: Of work.
        seconds: Case -> of the slowest rank.
        hidden: Way -> share of the shorter one, of the all-reduce and the work, that was hidden, by round.
        wrong: Elements, on all ranks.
    """

    nbytes: int
    algorithm: str
    products: int
    seconds: dict[str, Spread]
    hidden: dict[str, Spread]
    wrong: int

    def problems(self) -> list[str]:
        """Wrong elements."""
        return [f"{format_bytes(self.nbytes)}: {self.wrong} elements"] if self.wrong else []


class Part(saved.Part):
    """A number of ranks, or of hosts."""

    rows: list[Found] = field(default_factory=list)


def text(report: saved.Report[Part], figures: Mapping[str, str]) -> str:
    """The report as Markdown."""
    body = [EXPLANATION]
    for name, part in report.parts.items():
        if part.rows:
            sizes = [format_bytes(each.nbytes) for each in part.rows]
            body += [f"## {name}", "", *page.rows(["", *sizes], _lines(part.rows))]
    return page.page("How much of an all-reduce is hidden", report, body, "Every element of every result was right.")


def _lines(found: Sequence[Found]) -> Iterator[list[str]]:
    yield ["algorithm", *(each.algorithm for each in found)]
    yield ["rounds", *(str(each.seconds[WORK].count) for each in found)]
    for name in found[0].seconds:
        took = [f"{1e3 * each.seconds[name].median:.3g} ms" for each in found]
        if name in found[0].hidden:
            yield [name, *(page.percent(each.hidden[name]) for each in found)]
        yield ["" if name in found[0].hidden else name, *took]


KIND = Kind("overlap", "overlap", Part, text)


def measure(
    draft: Draft[Part], ranks: tuple[int, ...], hosts: tuple[int, ...], rate: int, name: str, **asked: Any
) -> None:
    """A job for each number of ranks, then for each number of hosts."""
    everywhere(draft, "hpcdist.bench.overlap.ranks", asked, ranks, hosts, rate, name)


command = options.verb(
    KIND,
    "overlap",
    "How much of an all-reduce is hidden behind its caller's work: by calls, by a thread, by the MPI library.",
    measure,
    options.sizes(SIZES),
    click.option(
        "--algorithm",
        type=Parsed("name", lambda text: text if text == "auto" else check(text)),
        default="auto",
        show_default=True,
        help="Of ours.",
    ),
    click.option("--segment-bytes", type=BYTES, help="Of a pipeline segment."),
    click.option("--looks", type=click.IntRange(min=1), default=20, show_default=True, help="Pieces of the work."),
    options.numbers("--ranks", "2", "Of this machine; 0 for none.", none=True),
    options.numbers("--hosts", "0", "Virtual, with a rank on each; 0 for none.", none=True),
    options.ONE_RATE,
    options.rounds(41),
    options.seconds(60, "About so long for each size."),
    options.NAME,
)
