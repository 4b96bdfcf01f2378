"""`hpcdist compare`: two sweeps of the same points, before and after a change. Needs no MPI."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import geometric_mean

import click

from hpcdist.sweep.merge import collect
from hpcdist.sweep.record import Record, grouped, point, segment_name
from hpcdist.util.sampling import digits
from hpcdist.util.sizes import format_bytes

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
LEAST = 0.05  # the least change of the median that is one, however quiet the samples were
ROW = "{:<30}  {:>9}  {:>12}  {:>12}  {:>7}  {}"


@click.command()
@click.argument("before", type=FILE)
@click.argument("after", type=FILE)
def compare(before: Path, after: Path) -> None:
    """Set the sweep AFTER beside the sweep BEFORE, case by case.

    A case is faster or slower where the medians are further apart than 5 %, and further than the samples of both sweeps
    scatter: from their fastest to their median. The exit code is 1 if any case is slower.
    """
    try:
        (_, old, _), (_, new, _) = collect((before,)), collect((after,))
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    known = {point(each): each for each in old}
    pairs = [(known[point(each)], each) for each in new if point(each) in known]
    if not pairs:
        raise click.ClickException(f"{before} and {after} have no case in common")
    for line in text(pairs):
        click.echo(line)
    alone = len(old) + len(new) - 2 * len(pairs)
    if alone:
        click.echo(f"{alone} cases are in one of the two only")
    sys.exit(int(any(verdict(*pair) == "slower" for pair in pairs)))


def text(pairs: Sequence[tuple[Record, Record]]) -> Iterator[str]:
    """A line for each case that differs, and what it comes to for each algorithm."""
    yield ROW.format("algorithm, segment", "size", "before (us)", "after (us)", "ratio", "")
    for old, new in pairs:
        if (said := verdict(old, new)) != "even":
            what = f"{new.algorithm}, {segment_name(new.segment_nbytes)}"
            us = (each.times.time_us_p50 for each in (old, new))
            where = f"{said}: {new.ranks} ranks, {new.dtype}, {new.op}, {new.placement}"
            yield ROW.format(what, format_bytes(new.nbytes), *map(digits, us), f"{ratio(old, new):.2f}", where)
    for name, group in grouped(pairs, lambda pair: pair[1].algorithm).items():
        mean = geometric_mean(ratio(*pair) for pair in group)
        verdicts = [verdict(*pair) for pair in group]
        counts = ", ".join(f"{verdicts.count(each)} {each}" for each in ("faster", "even", "slower"))
        yield f"{name}: {mean:.3f} of the time before, the geometric mean of {len(group)} cases: {counts}"


def ratio(old: Record, new: Record) -> float:
    """The median time after over that before."""
    return new.times.time_us_p50 / old.times.time_us_p50


def verdict(old: Record, new: Record) -> str:
    """Whether a case is faster, even or slower, given how its samples scatter."""
    noise = max(each.times.time_us_p50 / each.times.time_us_min for each in (old, new))
    change = ratio(old, new)
    if 1 / max(noise, 1 + LEAST) <= change <= max(noise, 1 + LEAST):
        return "even"
    return "slower" if change > 1 else "faster"
