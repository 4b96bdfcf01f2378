"""Tables of algorithms on virtual hosts: shares of the links' rate, times beside prices, and who is the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import median

from hpcdist.bench import cells
from hpcdist.bench.cells import Cell
from hpcdist.bench.compare import LIMIT, Group, Point
from hpcdist.bench.peers import OPEN_MPI
from hpcdist.bench.ratios import Side, medians
from hpcdist.bench.task import AUTO, LIBRARY, RAW

CLAIMED = "binary_blocks"
CLASSICS = ("ring", "halving_doubling", "recursive_doubling")  # what it is said to win against
EVEN = 0.05  # a smaller part of the time is no difference

EXPLANATION = f"""\
- Share: 2(p-1)/p of the buffer over each link each way, at its rate, over the time.
- Foreseen: by the price model, which the first job fits, and by which `auto` goes.
- {CLAIMED} wins, is even or loses where it takes less than {1 - EVEN:.2f}, up to {1 + EVEN:.2f} and more of the time of
  the fastest of the others: of {", ".join(CLASSICS)}, and of all of ours.
"""


def tables(group: Group) -> Iterator[str]:
    """Of one cluster."""
    names = cases(group)
    ours = [name for name in names if name not in (RAW, LIBRARY, AUTO)]
    yield from ["Share of the links' rate.", ""]
    yield from cells.table(group, [(name, _share(name)) for name in names])
    yield from ["Time [us], and over what was foreseen.", ""]
    yield from cells.table(group, [(name, _time(name)) for name in names])
    verdicts = [(f"{CLAIMED}, {what}", cell) for what, cell in _verdicts(ours)] if CLAIMED in ours else []
    columns = [
        *verdicts,
        ("auto took", cells.chosen(OPEN_MPI)),
        ("auto / fastest of ours", lambda point: over_fastest(point, ours)),
        (f"auto / {OPEN_MPI}", cells.over_own(OPEN_MPI, AUTO)),
        ("cores, raw TCP", lambda point: cells.percent(point.cores(LIMIT))),
        ("refill, raw TCP", lambda point: cells.percent(point.refill(LIMIT))),
        ("rounds", lambda point: str(point.rounds)),
    ]
    yield from cells.table(group, columns)
    errors = {name: error(group.points, [name]) for name in ours}
    told = ", ".join(f"{name} {found:.0%}" for name, found in errors.items() if found is not None)
    overall = error(group.points, ours)
    if overall is not None:
        yield from [f"Median of |time / foreseen - 1|: {overall:.0%}; {told}.", ""]


def cases(group: Group) -> list[str]:
    """Those that were measured."""
    return list(dict.fromkeys(case for point in group.points for row in point.rows for case in row.us))


def _share(case: str) -> Cell:
    return lambda point: cells.percent(found.median if (found := point.share(Side(OPEN_MPI, case))) else None)


def _time(case: str) -> Cell:
    def cell(point: Point) -> str:
        foreseen = point.over_predicted(OPEN_MPI, case)
        return cells.number(point.us(Side(OPEN_MPI, case))) + (f" x{foreseen.median:.2f}" if foreseen else "")

    return cell


def error(points: Iterable[Point], names: Sequence[str]) -> float | None:
    """The median of |time / foreseen - 1| over sizes and cases."""
    found = [point.over_predicted(OPEN_MPI, name) for point in points for name in names]
    return median(abs(each.median - 1) for each in found if each) if any(found) else None


def verdict(ours: float, others: Iterable[float]) -> str:
    """Whether a time wins or loses against others, or is even with the best of them."""
    ratio = ours / min(others)
    return "wins" if ratio < 1 - EVEN else "loses" if ratio > 1 + EVEN else "even"


def _verdicts(ours: Sequence[str]) -> Iterator[tuple[str, Cell]]:
    """How binary blocks do by measured and by foreseen times, against the classics and against all."""
    kinds: Sequence[tuple[str, Callable[[Point], dict[str, float]]]] = (("measured", measured), ("foreseen", foreseen))
    for among, others in (("classics", CLASSICS), ("all", ours)):
        for kind, times in kinds:
            yield f"{among}, {kind}", partial(_claim, others, times)


def _claim(others: Sequence[str], of: Callable[[Point], dict[str, float]], point: Point) -> str:
    times = of(point)
    there = [times[name] for name in others if name in times and name != CLAIMED]
    return verdict(times[CLAIMED], there) if CLAIMED in times and there else "-"


def measured(point: Point) -> dict[str, float]:
    """Case -> median time, of those whose results were right."""
    return {side.case: us for side, us in medians(point.rows, point.rows[0].us).items()}


def foreseen(point: Point) -> dict[str, float]:
    """Case -> median of what the price model says."""
    first = point.rows[0].predicted
    return {case: median(row.predicted[case] for row in point.rows if case in row.predicted) for case in first}


def over_fastest(point: Point, ours: Sequence[str]) -> str:
    """What "auto" takes over the fastest of ours, which is named."""
    times = measured(point)
    there = [name for name in ours if name in times]
    if not there or AUTO not in times:
        return "-"
    fastest = min(there, key=times.__getitem__)
    return f"{times[AUTO] / times[fastest]:.2f} of {fastest}"
