"""A schedule as a drawing: time runs to the right, one line per rank, one arrow per transfer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure

from hpcdist.schedule.ir import Schedule
from hpcdist.util import atomic_files

MOST_ARROWS = 4000  # more cannot be told apart


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


def draw(schedule: Schedule, path: Path) -> None:
    """Draw the schedule to `path` (.png, .svg or .pdf): solid arrows add, dashed ones overwrite, colours are chunks.

    Missing folders are made.

    Raises: ValueError if there are more transfers than an eye can follow.
    """
    transfers = [(n, row) for n, step in enumerate(schedule.steps) for row in step.rows() if row.src != row.dst]
    if len(transfers) > MOST_ARROWS:
        raise ValueError(
            f"{schedule.name} on {schedule.size} ranks has {len(transfers)} transfers; {MOST_ARROWS} can be drawn."
        )
    figure = Figure(figsize=(max(4.0, 1.1 * len(schedule.steps) + 2), max(2.5, 0.45 * schedule.size + 1.4)))
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    norm = BoundaryNorm([c - 0.5 for c in range(schedule.chunks + 1)], 256) if schedule.chunks > 1 else None
    colours = ScalarMappable(norm, "turbo")
    for rank in range(schedule.size):
        axes.axhline(rank, color="0.85", linewidth=1, zorder=0)
    for step, row in transfers:
        style = {
            "arrowstyle": "-|>",
            "linestyle": "-" if row.reduce else (0, (4, 2)),
            "shrinkA": 0,
            "shrinkB": 0,
        }
        colour = colours.to_rgba(np.array(row.dst_chunk + (row.count - 1) / 2)) if norm else "C0"
        axes.annotate(
            "",
            (step + 0.85, row.dst),
            (step + 0.15, row.src),
            arrowprops={**style, "color": colour, "linewidth": 1.4},
        )
    for step in range(1, len(schedule.steps)):
        axes.axvline(step, color="0.93", linewidth=1, zorder=0)
    axes.set(
        xlim=(0, max(1, len(schedule.steps))),
        ylim=(schedule.size - 0.5, -0.5),
        xlabel="step",
        ylabel="rank",
        title=f"{schedule.name}, {schedule.size} ranks: solid adds, dashed overwrites",
    )
    axes.set_xticks([n + 0.5 for n in range(len(schedule.steps))], [str(n) for n in range(len(schedule.steps))])
    axes.set_yticks(range(schedule.size))
    if norm:
        ticks = sorted({round(k * (schedule.chunks - 1) / 8) for k in range(9)})
        figure.colorbar(colours, ax=axes, label="chunk", ticks=ticks)
    figure.tight_layout()
    with atomic_files.replacing(path) as draft:
        figure.savefig(draft, dpi=150)
