"""A schedule as a drawing: time runs to the right, one line per rank, one arrow per transfer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from hpcdist.schedule.ir import Schedule, Transfer
from hpcdist.util import atomic_files

MOST_ARROWS = 4000  # more cannot be told apart
MOST_LABELS = 100  # transfers
MOST_LINES = 4  # of a message of several chunks
APART = 0.09  # of two of them, in ranks
NEAR = 0.34  # ranks from the sender, where the label of its only message in a step stands
FAN = 0.3  # of the way from a sender of several


def grid(schedule: Schedule) -> str:
    """What every rank receives in every step, as text: `+c2<0` adds chunk 2 from rank 0, `=c2<0` overwrites it."""
    cells: dict[tuple[int, int], list[str]] = {}
    for number, step in enumerate(schedule.steps):
        for row in step.rows():
            last = f"..{row.dst_chunk + row.count - 1}" if row.count > 1 else ""
            cell = f"{'+' if row.reduce else '='}c{row.dst_chunk}{last}<{row.src}"
            cells.setdefault((row.dst, number), []).append(cell)
    head = ["rank \\ step", *(str(n) for n in range(len(schedule.steps)))]
    table = [head]
    for rank in range(schedule.size):
        table.append([str(rank), *(" ".join(cells.get((rank, n), ["."])) for n in range(len(schedule.steps)))])
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in table)


def draw(schedule: Schedule, path: Path, nodes: Sequence[int] | None = None) -> None:
    """Draw the schedule to `path` (.png, .svg or .pdf): solid arrows add, dashed ones overwrite.

    A message has an arrow for each of its chunks, in the colour of the chunk, side by side; one of many chunks has one
    wide arrow. Chunk numbers stand at the arrows where there is room. Missing folders are made.

    Args:
        schedule: What to draw.
        path: Where to.
        nodes: The node of each rank, to shade every other one; a node without a neighbour is not shaded.

    Raises: ValueError if there are more transfers than an eye can follow.
    """
    transfers = [(n, row) for n, step in enumerate(schedule.steps) for row in step.rows() if row.src != row.dst]
    if len(transfers) > MOST_ARROWS:
        raise ValueError(
            f"{schedule.name} on {schedule.size} ranks has {len(transfers)} transfers; {MOST_ARROWS} can be drawn."
        )
    steps = len(schedule.steps)
    size = (max(4.5, 1.3 * steps + 1.5), max(2.5, 0.6 * schedule.size + 1.4))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set(xlim=(0, max(1, steps)), ylim=(schedule.size - 0.5, -0.5), xlabel="step", ylabel="rank")
    axes.set_title(f"{schedule.name}, {schedule.size} ranks: solid adds, dashed overwrites", fontsize="medium")
    axes.set_xticks([n + 0.5 for n in range(steps)], [str(n) for n in range(steps)])
    axes.set_yticks(range(schedule.size))
    axes.tick_params(length=0)
    for rank in range(schedule.size):
        axes.axhline(rank, color="0.85", linewidth=1, zorder=0)
    for step in range(1, steps):
        axes.axvline(step, color="0.93", linewidth=1, zorder=0)
    _shade(axes, nodes or ())
    norm = BoundaryNorm([c - 0.5 for c in range(schedule.chunks + 1)], 256) if schedule.chunks > 1 else None
    colours = ScalarMappable(norm, "turbo")
    senders = Counter((step, row.src) for step, row in transfers)
    for step, row in transfers:
        _arrows(axes, step, row, colours if norm else None)
        if norm and len(transfers) <= MOST_LABELS:
            _label(axes, step, row, alone=senders[step, row.src] == 1)
    if norm:
        ticks = sorted({round(k * (schedule.chunks - 1) / 8) for k in range(9)})
        figure.colorbar(colours, ax=axes, label="chunk", ticks=ticks, pad=0.01, aspect=30)
    with atomic_files.replacing(path) as draft:
        figure.savefig(draft, dpi=150)


def _shade(axes: Axes, nodes: Sequence[int]) -> None:
    """A band behind the ranks of every other node, and the node's number at each."""
    names = dict.fromkeys(nodes)
    if len(names) < 2:
        return
    order = {node: number for number, node in enumerate(names)}
    for node, ranks in groupby(range(len(nodes)), key=nodes.__getitem__):
        first, *rest = ranks
        last = [first, *rest][-1]
        if order[node] % 2 == 0:
            axes.axhspan(first - 0.5, last + 0.5, color="0.95", zorder=-1)
        middle = (first + last) / 2
        axes.text(1.005, middle, f"node {node}", transform=axes.get_yaxis_transform(), va="center", fontsize="small",
                  rotation=270, color="0.4")  # fmt: skip


def _arrows(axes: Axes, step: int, row: Transfer, colours: ScalarMappable | None) -> None:
    single = row.count <= MOST_LINES
    lines = range(row.count) if single else [(row.count - 1) / 2]
    for line in lines:
        aside = APART * (line - (row.count - 1) / 2) if single else 0.0
        colour = colours.to_rgba(np.array(row.dst_chunk + line)) if colours else "C0"
        style = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "color": colour, "linewidth": 1.4 if single else 4}
        style["linestyle"] = "-" if row.reduce else (0, (4, 2))
        axes.annotate("", (step + 0.85, row.dst + aside), (step + 0.15, row.src + aside), arrowprops=style)


def _label(axes: Axes, step: int, row: Transfer, alone: bool) -> None:
    """The numbers of the chunks, near the sender, before arrows cross."""
    last = f"..{row.dst_chunk + row.count - 1}" if row.count > 1 else ""
    way = min(FAN, NEAR / abs(row.dst - row.src)) if alone else FAN
    place = step + 0.15 + 0.7 * way, row.src + way * (row.dst - row.src)
    axes.text(*place, f"c{row.dst_chunk}{last}", fontsize=7, ha="center", va="center",
              bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none"})  # fmt: skip
