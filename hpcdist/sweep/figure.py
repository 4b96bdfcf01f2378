"""The figure of a sweep: busbw over size, one line per algorithm, to be put in a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from hpcdist.device.paths import HOST
from hpcdist.sweep.record import LIBRARY, Record, bandwidths, figure_paths, labels, of_library
from hpcdist.util import atomic_files
from hpcdist.util.sizes import format_bytes

# The colours of Okabe and Ito (2008), which people with any colour vision tell apart, and two more;
# black is kept for the library.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#999933")
MARKERS = "osD^vP*X"
LABELS = 6  # sizes that there is room to name
MODEL = "predicted"  # a dotted line in the colour of the algorithm it is for


def write(path: Path, records: Sequence[Record], placement: str = "in_place") -> list[Path]:
    """Draw the records of one placement and write the files; each is whole or absent."""
    figure = draw([record for record in records if record.placement == placement])
    return save(figure, figure_paths(path), bbox_inches="tight")


def save(figure: Figure, files: list[Path], **options: Any) -> list[Path]:
    """Write a figure into files, each whole or absent; `options` are those of matplotlib's savefig."""
    for file in files:
        # Text stays text in an SVG, and no date is in it, so that the same numbers make the same file.
        with (
            mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "hpcdist"}),
            atomic_files.replacing(file) as draft,
        ):
            metadata = {"Date": None} if file.suffix == ".svg" else None
            figure.savefig(draft, dpi=200, metadata=metadata, **options)
    return files


def panels(count: int, panel: tuple[float, float], margin: tuple[float, float], **sharing: Any) -> NDArray:
    """So many empty panels of a new figure, two beside each other, as a grid of axes, of which the last may be removed.

    Args:
        count: how many.
        panel: width and height of one [inches].
        margin: of the figure beyond its panels [inches].
        sharing: options of matplotlib's subplots.
    """
    columns = min(2, count)
    rows = -(-count // columns)
    size = margin[0] + panel[0] * columns, margin[1] + panel[1] * rows
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False, **sharing)
    for axes in grid.flat[count:]:
        axes.remove()
    return grid


def over_sizes(axes: Axes, sizes: Sequence[int]) -> None:
    """Sizes, sorted, on a logarithmic scale, as many of them named as fit, in binary units, on a light grid."""
    ticks = sizes[::-1][:: -(-len(sizes) // LABELS) or 1][::-1]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [format_bytes(size) for size in ticks])
    axes.minorticks_off()
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def draw(records: Sequence[Record]) -> Figure:
    """A figure with one panel per number of ranks and nodes, type, operation and path."""
    cases = list(dict.fromkeys(map(_case, records)))
    grid = panels(len(cases), (5.2, 4.0), (2.2, 0.4), sharey=True)
    figure = grid[0, 0].figure
    for axes, case in zip(grid.flat, cases, strict=False):
        _panel(axes, [record for record in records if _case(record) == case])
    for axes in grid[:, 0]:
        axes.set_ylabel("bus bandwidth [GB/s]")
    figure.legend(*_legend(figure.axes), loc="outside right center", frameon=False)
    placement, library = records[0].placement.replace("_", " "), records[0].library
    figure.suptitle(f"All-reduce on {_ranks(records)}, {placement} ({library})", fontsize="large", x=0.01, ha="left")
    return figure


def _case(record: Record) -> tuple:
    return record.ranks, record.nodes, record.dtype, record.op, record.memory, record.path


def _ranks(records: Sequence[Record]) -> str:
    """How many there are, on how many nodes: "4 or 8 ranks, 2 nodes"."""
    parts = []
    for numbers, noun in (({r.ranks for r in records}, "rank"), ({r.nodes for r in records}, "node")):
        plural = "s" if max(numbers) > 1 else ""
        parts.append(f"{' or '.join(map(str, sorted(numbers)))} {noun}{plural}")
    return ", ".join(parts)


def _panel(axes: Axes, records: Sequence[Record]) -> None:
    names = labels(records)
    for number, (case, name) in enumerate(sorted(names.items(), key=lambda pair: pair[0][0] == LIBRARY)):
        line = sorted(
            (record.nbytes, record.busbw, _predicted(record))
            for record in records
            if (record.algorithm, record.segment_nbytes) == case
        )
        sizes, measured, predicted = zip(*line, strict=True)
        style = _style(name, number)
        axes.plot(sizes, measured, label=name, **style)
        if not np.isnan(predicted).any():
            axes.plot(sizes, predicted, label=MODEL, color=style["color"], linestyle=":", linewidth=0.9)
    axes.set_title(f"{_ranks(records)}, {_what(records[0])}", fontsize="medium", loc="left")
    axes.set_xlabel("size of the buffer")
    _axes(axes, sorted({record.nbytes for record in records}))


def _what(record: Record) -> str:
    path = "" if record.memory == HOST else f", {record.path}"
    return f"{record.dtype}, {record.op}{path}"


def _predicted(record: Record) -> float:
    """The bus bandwidth [GB/s] that the model foresees; NaN where it knows nothing."""
    if not record.predicted_us:
        return np.nan
    return bandwidths(record.nbytes, record.predicted_us * 1e-6, record.ranks)[1]


def _style(name: str, number: int) -> dict:
    if name == LIBRARY:
        return {"color": "black", "linestyle": "--", "linewidth": 1.6}
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    line = "--" if of_library(name) else ("-", "-.")[number // len(COLOURS) % 2]
    return {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.4, "linestyle": line}


def _axes(axes: Axes, sizes: Sequence[int]) -> None:
    """Both scales logarithmic, so that small sizes show, too."""
    axes.set_yscale("log")
    over_sizes(axes, sizes)


def _legend(panels: Sequence[Axes]) -> tuple[list[Line2D], list[str]]:
    """Lines and names, each name once, in the order of the lines' right ends."""
    lines: dict[str, Line2D] = {}
    for line in (line for axes in panels for line in axes.get_lines()):
        lines.setdefault(str(line.get_label()), line)
    names = sorted(lines, key=lambda name: (name == MODEL, -np.asarray(lines[name].get_ydata())[-1]))
    return [lines[name] for name in names], names
