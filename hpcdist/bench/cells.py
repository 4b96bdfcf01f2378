"""Tables of Markdown with a line for each size, and what stands in their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isnan

from hpcdist.bench.compare import SLOWER, Group, Point
from hpcdist.bench.page import rows
from hpcdist.bench.ratios import TIE, Side
from hpcdist.bench.record import WRONG
from hpcdist.bench.task import AUTO, LIBRARY, addressed
from hpcdist.util.sampling import Spread
from hpcdist.util.sizes import format_bytes

Cell = Callable[[Point], str]
Column = tuple[str, Cell]

# At an address: times the best library, those below SMALL bytes; times the best address of ours.
SMALL = 4096
NEAR_BEST, NEAR_BEST_SMALL, APART = 1.03, 1.2, 1.15


def table(group: Group, columns: Sequence[Column]) -> Iterator[str]:
    """A line for each size."""
    lines = [[format_bytes(point.nbytes), *(cell(point) for _, cell in columns)] for point in group.points]
    yield from rows(["size", *(title for title, _ in columns)], lines)


# --- what a column tells of a point ---


def over_own(name: str, case: str) -> Cell:
    """A case of ours over the library that it runs on."""
    return lambda point: ratio(point.within(name, case, LIBRARY), None)


def chosen(name: str) -> Cell:
    """What "auto" took in a library's jobs."""
    return lambda point: point.chosen(name)


def took(name: str) -> Cell:
    """Microseconds of a library."""
    return lambda point: number(point.us(Side(name, LIBRARY)))


def share_of(name: str) -> Cell:
    """The part of the links' rate that a library makes use of."""
    return lambda point: share(point.share(Side(name, LIBRARY)))


def at_address(name: str) -> Cell:
    """Ours over the best library at an address, to judge by the upper bound."""
    return lambda point: ratio(point.at_address(name), NEAR_BEST if point.nbytes >= SMALL else NEAR_BEST_SMALL, "high")


def worst_over_best(names: Sequence[str]) -> Cell:
    """The slowest of some addresses of ours over the fastest."""
    return lambda point: ratio(point.worst_over_best([addressed(AUTO, name) for name in names]), APART)


def new_over_old(case: str) -> Cell:
    """A case of two commits, to judge by the lower bound."""
    return lambda point: ratio(point.new_over_old(case), SLOWER, "low")


def elements(name: str, half: str, kind: str) -> Cell:
    """Elements a second of a half type over those of float32, in a library's jobs."""
    return lambda point: rate(point.within(name, f"float32, {kind}", f"{half}, {kind}"))


# --- values in words; "-" where there is none, WRONG where results were ---


def ratio(found: Spread | None, most: float | None = TIE, judged: str = "median") -> str:
    """A ratio of times, bold if what is judged of it is above `most`."""
    if found is None or found is WRONG:
        return _instead(found)
    return bold(_spread(found, "{:.2f}"), most is not None and getattr(found, judged) > most)


def rate(found: Spread | None) -> str:
    """A ratio of rates, bold below 1."""
    if found is None or found is WRONG:
        return _instead(found)
    return bold(_spread(found, "{:.2f}"), found.median < 1)


def share(found: Spread | None) -> str:
    """A part of a whole, with its range."""
    return _instead(found) if found is None or found is WRONG else _spread(found, "{:.0%}")


def percent(part: float | None) -> str:
    """A part of a whole; how much more than all of it does not matter."""
    if part is not None and isnan(part):
        return _instead(WRONG)
    return "-" if part is None else ">100%" if part > 1 else f"{part:.0%}"


def peer(side: Side | None) -> str:
    """The name of a library."""
    return side.peer if side else "-"


def number(found: Spread | None) -> str:
    """A median, with as many digits as say something."""
    if found is None or found is WRONG:
        return _instead(found)
    return f"{found.median:.0f}" if found.median >= 100 else f"{found.median:.3g}"


def bold(words: str, missed: bool) -> str:
    """What was missed stands out."""
    return f"**{words}**" if missed else words


def _instead(found: Spread | None) -> str:
    return "-" if found is None else bold("WRONG", True)


def _spread(found: Spread, form: str) -> str:
    median, low, high = (form.format(value) for value in (found.median, found.low, found.high))
    return f"{median} ({low}-{high}, n={found.count})"
