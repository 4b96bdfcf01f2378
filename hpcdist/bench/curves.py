"""Curves over sizes, in panels of one style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpcdist.sweep.figure import COLOURS, MARKERS, over_sizes
from hpcdist.util.sampling import Spread

Curve = Sequence[tuple[int, Spread | None]]  # by size in bytes
LIMIT = {"color": "black", "linestyle": "--", "linewidth": 1.6}


def draw(axes: Axes, curves: Mapping[str, Curve], limit: str = "") -> None:
    """Medians, and ranges as bands, with a gap where results were wrong; `limit` is the name of a dashed one."""
    for number, (label, points) in enumerate(curves.items()):
        style = LIMIT if label == limit else _style(number)
        found = [(nbytes, spread) for nbytes, spread in points if spread]
        if found:
            sizes = [nbytes for nbytes, _ in found]
            axes.plot(sizes, [spread.median for _, spread in found], label=label, **style)
            low, high = [spread.low for _, spread in found], [spread.high for _, spread in found]
            axes.fill_between(sizes, low, high, color=style["color"], alpha=0.15, linewidth=0)
    over_sizes(axes, sorted({nbytes for points in curves.values() for nbytes, _ in points}))
    axes.set_xlabel("size")


def _style(number: int) -> dict[str, Any]:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    line = ("-", "-.")[number // len(COLOURS) % 2]
    return {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.3, "linestyle": line}


def finish(figure: Figure, title: str) -> Figure:
    """Name all curves, and the whole."""
    lines = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", frameon=False)
    figure.suptitle(title, fontsize="large", x=0.01, ha="left")
    return figure
