"""The figure of a report: share of the raw files, and blocking time, over size, a column for each number of ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hpcdist.bench.checkpoints.record import Save
from hpcdist.bench.checkpoints.ways import PLAIN, RAW, present
from hpcdist.sweep.figure import COLOURS, MARKERS, save
from hpcdist.util.sizes import format_bytes


def write(path: Path, saves: Sequence[Save]) -> Path:
    """Draw the saves into a file, which is whole or absent."""
    return save(draw(saves), [path])[0]


def draw(saves: Sequence[Save]) -> Figure:
    """A figure of all saves."""
    numbers = sorted({each.ranks for each in saves})
    figure = Figure(figsize=(2.2 + 3.1 * len(numbers), 6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(numbers), squeeze=False, sharex=True, sharey="row")
    ways = present(saves)
    for column, ranks in enumerate(numbers):
        own = [each for each in saves if each.ranks == ranks]
        _panel(grid[0, column], own, ways, lambda each: each.share.median)
        _panel(grid[1, column], own, ways, lambda each: each.blocking.median)
        grid[0, column].set_title(f"{ranks} rank{'s' if ranks > 1 else ''}", fontsize="medium", loc="left")
        grid[1, column].set_xlabel("state")
    grid[0, 0].set_ylabel("share of raw files")
    grid[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    grid[0, 0].set_ylim(bottom=0)
    grid[1, 0].set(ylabel="blocking [s]", yscale="log")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    return figure


def _panel(axes: Axes, saves: Sequence[Save], ways: Sequence[str], value: Callable[[Save], float]) -> None:
    for name in ways:
        line = sorted((each.nbytes, value(each)) for each in saves if each.way == name)
        axes.plot([nbytes for nbytes, _ in line], [height for _, height in line], label=name, **_style(name, ways))
    sizes = sorted({each.nbytes for each in saves})
    axes.set_xscale("log", base=2)
    ticks = sizes[::-1][::3][::-1]
    axes.set_xticks(ticks, [format_bytes(nbytes) for nbytes in ticks])
    axes.grid(visible=True, color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def _style(name: str, ways: Sequence[str]) -> dict:
    if name == RAW:
        return {"color": "black", "linestyle": "--", "linewidth": 1.6}
    if name == PLAIN:
        return {"color": "0.55", "linewidth": 2.6}
    number = [other for other in ways if other not in (RAW, PLAIN)].index(name)
    return {"color": COLOURS[number], "marker": MARKERS[number], "markersize": 4.5, "linewidth": 1.3}
