"""Figures: for one machine, ratios over size; for virtual hosts, shares of the links' rate over size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import methodcaller
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hpcdist.bench import by_algorithm, curves
from hpcdist.bench.compare import LIMIT, Group, Point, groups
from hpcdist.bench.peers import OPEN_MPI
from hpcdist.bench.ratios import TIE, Side
from hpcdist.bench.record import ALGORITHMS, HERE, NETWORK, Report
from hpcdist.bench.task import AUTO, COPY, LIBRARY, RAW, REGISTERED
from hpcdist.sweep.figure import panels, save
from hpcdist.util.sampling import Spread

Value = Callable[[Point], Spread | None]
SMALLEST = 1024  # bytes; smaller buffers make no use of a link
TOP = 1.25  # of the scale of shares
PANEL, MARGIN = (4.4, 4.0), (2.2, 0.0)  # inches


def write(folder: Path, report: Report) -> list[Path]:
    """Draw every group of a report; each file is whole or absent."""
    files = []
    for part, draw in (("node", node), (NETWORK, network), (ALGORITHMS, algorithms)):
        for group in groups(report.rows, part):
            if part != ALGORITHMS or group.place != HERE:
                files += save(draw(group), [folder / f"{group.name}.png"])
    return files


def node(group: Group) -> Figure:
    """Ours over the best library, and over a copy, with the range of the middle 80 % of the rounds."""
    grid = panels(2, PANEL, MARGIN)
    kinds = {"ordinary arrays": AUTO, "registered arrays": REGISTERED}
    beside = {name: methodcaller("beside_best", case) for name, case in kinds.items()}
    copy = {name: methodcaller("at_home", case, COPY) for name, case in kinds.items()}
    for axes, what, values in zip(grid.flat, ("the best library", "a copy by all ranks"), (beside, copy), strict=True):
        curves.draw(axes, _curves(group.points, values))
        axes.set_ylabel(f"time / that of {what}")
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.axhline(1, color="0.4", linewidth=0.8, zorder=1)
    grid[0, 0].axhspan(1 / TIE, TIE, color="0.9", zorder=0)
    title = f"All-reduce on {group.ranks} ranks of one machine, beside {', '.join(group.libraries)}"
    return curves.finish(grid[0, 0].figure, title)


def network(group: Group) -> Figure:
    """Shares of the limit of ours, of raw TCP and of all libraries."""
    libraries = {name: _share_of(Side(name, LIBRARY)) for name in group.libraries}
    return _shares(group, {"ours": lambda p: p.share_at_home(AUTO), **libraries})


def algorithms(group: Group) -> Figure:
    """The same of each algorithm of ours, and of the library."""
    names = [name for name in by_algorithm.cases(group) if name != RAW]
    return _shares(group, {name: _share_of(Side(OPEN_MPI, name)) for name in names})


def _shares(group: Group, values: Mapping[str, Value]) -> Figure:
    axes = panels(1, PANEL, MARGIN)[0, 0]
    points = [point for point in group.points if point.nbytes >= SMALLEST] or group.points
    curves.draw(axes, _curves(points, {**values, RAW: lambda p: p.share(LIMIT)}), RAW)
    axes.set_ylabel("share of the links' rate")
    axes.set_ylim(0, TOP)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    return curves.finish(axes.figure, f"All-reduce on {group.ranks} hosts behind links of {group.place}")


def _curves(points: Sequence[Point], values: Mapping[str, Value]) -> dict[str, curves.Curve]:
    return {name: [(point.nbytes, value(point)) for point in points] for name, value in values.items()}


def _share_of(side: Side) -> Value:
    return lambda point: point.share(side)
