"""A report on networks as text: for each rate and number of ranks the shares of the link, then ratios at one size."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from hpcdist.bench.links.options import LEAST
from hpcdist.bench.links.record import RAW, Record, Report, cases
from hpcdist.sweep.record import LIBRARY
from hpcdist.util.sizes import format_bytes

MEANING = """\
# share of the link = 2(p-1)/p x bytes x 8 / (time x rate): an all-reduce that wastes nothing reaches 100 %
# time = median over rounds of one operation after a barrier, each that of the slowest rank; float32, sum, in place
# raw TCP: each rank sends 2(p-1)/p of the buffer to its right neighbour while it receives as much, without MPI
# rounds: of all cases but those predicted to take over a second and twice the link's time, which have at most {least}
# refill: what a link lets through at once although its bucket was emptied before; it raises the shares of small sizes
# cores: the part of all cores that raw TCP kept busy; ranks that wait for MPI spin, so it is not told of the others
# ratio = median over rounds of the paired ratios of times: below 1, faster than the other"""


REST = ("rounds", "raw ms", "refill KiB", "cores %")  # columns behind the cases


def rate_text(rate: int) -> str:
    """A rate [bit/s] for people: "200 Mbit/s"."""
    for factor, prefix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if rate >= factor:
            return f"{rate / factor:.6g} {prefix}bit/s"
    return f"{rate} bit/s"


def text(report: Report) -> str:
    """The whole report."""
    return "\n".join([*_head(report), "", *blocks(report.results), summary(report)]) + "\n"


def summary(report: Report) -> str:
    """What comes below the blocks: ratios, and what is wrong or missing."""
    return "\n".join([*_ratios(report.results), *_foot(report)])


def _head(report: Report) -> Iterator[str]:
    machine = report.machine
    yield f"# {shlex.join(report.command)}"
    if machine:
        library, cores = machine["mpi"], machine["cores_per_host"]
        yield f"# {report.start_time}, {library}, TCP {machine['tcp']}, all hosts on {cores} cores of {machine['cpu']}"
    yield MEANING.format(least=LEAST)


def blocks(records: Sequence[Record]) -> Iterator[str]:
    """A table for each rate and number of ranks: a line for each size, a column for each case."""
    for rate, ranks in dict.fromkeys((record.rate, record.ranks) for record in records):
        own = [record for record in records if (record.rate, record.ranks) == (rate, ranks)]
        yield f"{rate_text(rate)}, {ranks} ranks: share of the link [%]"
        names = cases(own)
        yield from _header("size", [*names, *REST])
        for nbytes in dict.fromkeys(record.nbytes for record in own):
            yield _size_line({record.case: record for record in own if record.nbytes == nbytes}, names)
        yield ""


def _size_line(by_case: dict[str, Record], names: Sequence[str]) -> str:
    raw = by_case[RAW]
    cells = [f"{100 * by_case[name].share:.1f}" for name in names]
    cells += [
        f"{raw.samples}",
        f"{raw.time_us_p50 / 1e3:.2f}",
        f"{raw.refill / 1024:.0f}",
        f"{100 * raw.cores_busy:.0f}",
    ]
    return _line(format_bytes(raw.nbytes), cells, _widths([*names, *REST]))


def _ratios(records: Sequence[Record]) -> Iterator[str]:
    """At the largest size: times beside those of the library, of raw TCP and of the price model."""
    if not records:
        return
    largest = max(record.nbytes for record in records)
    kinds: tuple[tuple[str, str, Callable[[Record], float | None]], ...] = (
        (f"time / that of {LIBRARY}", LIBRARY, lambda r: r.to_library),
        (f"time / that of {RAW}", RAW, lambda r: r.to_raw),
        (
            "time / predicted from the link's rate",
            "",
            lambda r: r.time_us_p50 / r.predicted_us if r.predicted_us else None,
        ),
    )
    for title, other, ratio in kinds:
        shown = [r for r in records if r.nbytes == largest and r.case != other and ratio(r) is not None]
        yield f"{format_bytes(largest)}, {title}"
        yield from _ratio_table(shown, ratio)
        yield ""


def _ratio_table(records: Sequence[Record], ratio: Callable[[Record], float | None]) -> Iterator[str]:
    names = cases(records)
    yield from _header("", names)
    for rate, ranks in dict.fromkeys((record.rate, record.ranks) for record in records):
        own = {record.case: ratio(record) for record in records if (record.rate, record.ranks) == (rate, ranks)}
        cells = ["-" if own.get(name) is None else f"{own[name]:.2f}" for name in names]
        yield _line(f"{rate_text(rate)}, {ranks} ranks", cells, _widths(names))


def _foot(report: Report) -> Iterator[str]:
    for record in report.wrong:
        where = f"{rate_text(record.rate)}, {record.ranks} ranks, {format_bytes(record.nbytes)}"
        yield f"# WRONG: {record.case}, {where}: {record.wrong} elements"
    if report.results and not report.wrong:
        yield "# every result was checked, element by element, and none was wrong"
    yield from (f"# MISSING: {what}" for what in report.missing)


# Columns: a name is written in two lines where it has two words.

FIRST = 22


def _words(name: str) -> tuple[str, str]:
    """A column's name in two lines: "halving_" above "doubling"."""
    for mark in (", ", "_", " "):
        if mark in name:
            above, below = name.split(mark, 1)
            return above + mark.rstrip(), below
    return "", name


def _widths(names: Sequence[str]) -> list[int]:
    return [max(6, *map(len, _words(name))) for name in names]


def _header(first: str, names: Sequence[str]) -> tuple[str, str]:
    above, below = zip(*map(_words, names), strict=True)
    return _line("", above, _widths(names)), _line(first, below, _widths(names))


def _line(first: str, cells: Sequence[str], widths: Sequence[int]) -> str:
    rest = (f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
    return "  ".join([f"{first:<{FIRST}}", *rest]).rstrip()
