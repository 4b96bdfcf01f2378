"""Runs on several numbers of ranks as text: times, where binary blocks win, and how far the price model is off.

    python -m hpcdist.bench.awkward.table awkward/*.json --out awkward.txt

Needs no MPI.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from statistics import median

import click

from hpcdist.bench.awkward.record import Record, Run
from hpcdist.sweep.record import LIBRARY
from hpcdist.sweep.report import prices
from hpcdist.util import atomic_files
from hpcdist.util.sizes import format_bytes

CLAIMED = "binary_blocks"
CLASSICS = ("ring", "halving_doubling", "recursive_doubling")  # what it is said to win against
AUTO = "auto"
EVEN = 0.05  # a smaller part of the time is no difference
MEANING = f"""\
# float32 sums in place; time = median over samples, each that of the slowest rank, per operation, in ms
# x = time / predicted, with prices fitted in the same run; {AUTO} = what these prices choose; see the JSON for p10, p90
# wins, even, loses: below, within and above {100 * EVEN:.0f} % of the fastest of the others"""


def text(runs: Sequence[Run]) -> str:
    """The whole report."""
    parts = [[MEANING], *map(_block, runs), _claims(runs), _errors(runs), _auto(runs), _foot(runs)]
    return "\n\n".join("\n".join(part) for part in parts)


def _block(run: Run) -> Iterator[str]:
    """Times of one run, a line for each case, a column for each size."""
    yield f"{run.place}: {run.machine['mpi']}, {run.machine['cpu']}, {run.start_time}"
    yield f"# {shlex.join(run.command)}"
    yield f"# {prices(run.model)}"
    yield _line("", [format_bytes(nbytes) for nbytes, _ in _by_size(run)])
    for case in dict.fromkeys(record.case for record in run.results):
        yield _line(case, [_cell(found[case]) for _, found in _by_size(run)])


def _by_size(run: Run) -> Iterator[tuple[int, dict[str, Record]]]:
    """(size, the records of all cases by name)."""
    for nbytes in dict.fromkeys(record.nbytes for record in run.results):
        yield nbytes, {record.case: record for record in run.results if record.nbytes == nbytes}


def _cell(record: Record) -> str:
    ratio = "" if record.to_predicted is None else f" x{record.to_predicted:.2f}"
    return f"{record.time_us_p50 / 1e3:.4g}{ratio:<6}"


def _line(first: str, cells: Iterable[str]) -> str:
    return (f"{first:<24}" + "".join(f"{cell:>17}" for cell in cells)).rstrip()


def verdict(ours: float, others: Iterable[float]) -> str:
    """Whether a time wins or loses against others, or is even with the best of them."""
    ratio = ours / min(others)
    return "wins" if ratio < 1 - EVEN else "loses" if ratio > 1 + EVEN else "even"


def claim(found: dict[str, Record], others: Iterable[str], of: Callable[[Record], float | None]) -> str:
    """How binary blocks do among the others of one size, by their measured or their predicted times."""
    times = {case: of(found[case]) or 0.0 for case in (CLAIMED, *others)}
    return verdict(times.pop(CLAIMED), times.values())


def _claims(runs: Sequence[Run]) -> Iterator[str]:
    """Where binary blocks win, measured and predicted: against the classics, and against all of ours."""
    yield f"{CLAIMED} against {', '.join(CLASSICS)}; and against all of ours"
    yield _line("", ["measured", "predicted", "all, measured", "all, predicted"])
    for run in runs:
        for nbytes, found in _by_size(run):
            ours = [case for case, record in found.items() if record.predicted_us and case not in (CLAIMED, AUTO)]
            times = attrgetter("time_us_p50"), attrgetter("predicted_us")
            cells = [claim(found, among, of) for among in (CLASSICS, ours) for of in times]
            yield _line(f"{run.label}, {format_bytes(nbytes)}", cells)


def error(records: Iterable[Record]) -> float:
    """The median of |time / predicted - 1|."""
    return median(abs(record.to_predicted - 1) for record in records if record.to_predicted is not None)


def _errors(runs: Sequence[Run]) -> Iterator[str]:
    """The price model's median relative error, a line for each case, a column for each run."""
    yield "median of |time / predicted - 1| over sizes, in %"
    yield _line("", [run.label for run in runs])
    for case in dict.fromkeys(record.case for run in runs for record in run.results):
        if case not in (LIBRARY, AUTO):
            yield _line(case, [_percent(record for record in run.results if record.case == case) for run in runs])
    yield _line("all", [_percent(record for record in run.results if record.case != AUTO) for run in runs])


def _percent(records: Iterable[Record]) -> str:
    found = [record for record in records if record.predicted_us]
    return f"{100 * error(found):.0f}" if found else "-"


def _auto(runs: Sequence[Run]) -> Iterator[str]:
    """What the model's choice was worth: beside the fastest of ours, and beside the library."""
    yield f"{AUTO}: what it took, its time / that of the fastest of ours, and / that of {LIBRARY}"
    for run in runs:
        for nbytes, found in _by_size(run):
            times = {case: record.time_us_p50 for case, record in found.items()}
            ours, library = times.pop(AUTO), times.pop(LIBRARY)
            fastest = min(times, key=times.__getitem__)
            where = f"{run.label}, {format_bytes(nbytes)}"
            ratios = f"{ours / times[fastest]:.2f} of {fastest}, {ours / library:.2f} of {LIBRARY}"
            yield f"{where:<24}{found[AUTO].algorithm}, {ratios}"


def _foot(runs: Sequence[Run]) -> Iterator[str]:
    wrong = [(run, record) for run in runs for record in run.results if record.wrong]
    for run, record in wrong:
        yield f"# WRONG: {record.case}, {run.place}, {format_bytes(record.nbytes)}: {record.wrong} elements"
    if not wrong:
        yield "# every result was checked, element by element, and none was wrong"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it to this file, too.")
def main(files: tuple[Path, ...], out: Path | None) -> None:
    """Put the records of several runs together and say where binary blocks win.

    It exits with 1 if any element was wrong.
    """
    try:
        runs = sorted(map(Run.read, files), key=lambda run: (run.racks, len(run.machine["hosts"]) > 1, run.ranks))
    except (OSError, ValueError) as problem:
        raise click.ClickException(str(problem)) from None
    report = text(runs)
    click.echo(report)
    if out is not None:
        atomic_files.write_text(out, report + "\n")
    sys.exit(int(any(record.wrong for run in runs for record in run.results)))


if __name__ == "__main__":
    main(prog_name="python -m hpcdist.bench.awkward.table")
