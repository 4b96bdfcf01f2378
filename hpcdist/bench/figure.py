"""Figures: for one machine, ratios over size; for virtual hosts, shares of the links' rate over size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hpcdist.bench import by_algorithm
from hpcdist.bench.compare import LIMIT, Group, Point, groups
from hpcdist.bench.peers import OPEN_MPI
from hpcdist.bench.ratios import TIE, Side
from hpcdist.bench.record import ALGORITHMS, HERE, NETWORK, Report
from hpcdist.bench.task import AUTO, COPY, LIBRARY, RAW, REGISTERED
from hpcdist.sweep.figure import COLOURS, MARKERS, save
from hpcdist.util.sampling import Spread
from hpcdist.util.sizes import format_bytes

Curve = tuple[str, Callable[[Point], Spread | None]]
SMALLEST = 1024  # bytes; smaller buffers make no use of a link
LABELS = 6  # sizes that there is room to name
TOP = 1.25  # of the scale of shares


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
    figure, (beside, copy) = _figure(2)
    _panel(beside, group.points, (
        ("ordinary arrays", lambda p: p.beside_best(AUTO)),
        ("registered arrays", lambda p: p.beside_best(REGISTERED)),
    ))  # fmt: skip
    _panel(copy, group.points, (
        ("ordinary arrays", lambda p: p.at_home(AUTO, COPY)),
        ("registered arrays", lambda p: p.at_home(REGISTERED, COPY)),
    ))  # fmt: skip
    beside.axhspan(1 / TIE, TIE, color="0.9", zorder=0)
    beside.set_ylabel("time / that of the best library")
    copy.set_ylabel("time / that of a copy by all ranks")
    for axes in (beside, copy):
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.axhline(1, color="0.4", linewidth=0.8, zorder=1)
    _finish(figure, f"All-reduce on {group.ranks} ranks of one machine, beside {', '.join(group.libraries)}")
    return figure


def network(group: Group) -> Figure:
    """Shares of the limit of ours, of raw TCP and of all libraries."""
    curves: list[Curve] = [("ours", lambda p: p.share_at_home(AUTO))]
    curves += [(name, _share_of(Side(name, LIBRARY))) for name in group.libraries]
    return _shares(group, curves)


def algorithms(group: Group) -> Figure:
    """The same of each algorithm of ours, and of the library."""
    names = [name for name in by_algorithm.cases(group) if name != RAW]
    return _shares(group, [(name, _share_of(Side(OPEN_MPI, name))) for name in names])


def _shares(group: Group, curves: Sequence[Curve]) -> Figure:
    figure, (axes,) = _figure(1)
    points = [point for point in group.points if point.nbytes >= SMALLEST] or group.points
    _panel(axes, points, curves)
    _line(axes, points, lambda p: p.share(LIMIT), "raw TCP", {"color": "black", "linestyle": "--"})
    axes.set_ylabel("share of the links' rate")
    axes.set_ylim(0, TOP)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.axhline(1, color="0.6", linewidth=0.8, zorder=1)
    _finish(figure, f"All-reduce on {group.ranks} hosts behind links of {group.place}")
    return figure


def _share_of(side: Side) -> Callable[[Point], Spread | None]:
    return lambda point: point.share(side)


def _figure(columns: int) -> tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(2.2 + 4.4 * columns, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False).flat)


def _panel(axes: Axes, points: Sequence[Point], curves: Sequence[Curve]) -> None:
    for number, (label, value) in enumerate(curves):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        style = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.3}
        style["linestyle"] = ("-", "-.")[number // len(COLOURS) % 2]
        _line(axes, points, value, label, style)
    sizes = [point.nbytes for point in points]
    axes.set_xscale("log", base=2)
    ticks = sizes[::-1][:: -(-len(sizes) // LABELS)][::-1]
    axes.set_xticks(ticks, [format_bytes(size) for size in ticks])
    axes.minorticks_off()
    axes.set_xlabel("size of the buffer")
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _line(
    axes: Axes, points: Sequence[Point], value: Callable[[Point], Spread | None], label: str, style: dict
) -> None:
    """Medians, and the range as a band; with a gap where results were wrong."""
    found = [(point.nbytes, spread) for point in points if (spread := value(point))]
    if not found:
        return
    sizes = [nbytes for nbytes, _ in found]
    axes.plot(sizes, [spread.median for _, spread in found], label=label, **style)
    low, high = [spread.low for _, spread in found], [spread.high for _, spread in found]
    axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _finish(figure: Figure, title: str) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    figure.suptitle(title, fontsize="large", x=0.01, ha="left")
