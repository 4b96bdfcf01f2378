"""The figure of one rate: the share of the link over size, a panel for each number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hpcdist.bench.links.record import RAW, Record, cases
from hpcdist.bench.links.table import rate_text
from hpcdist.sweep.figure import COLOURS, MARKERS, over_sizes, panels, save
from hpcdist.sweep.record import FIGURES, LIBRARY

SMALLEST = 1024  # bytes; smaller buffers make no use of a link, and are left to the table
LABELS = 5  # sizes that there is room to name below a panel
TOP = 1.25  # of the scale, at most


def write(stem: Path, records: Sequence[Record], library: str) -> list[Path]:
    """Draw the records of one rate into stem.png and stem.svg; each is whole or absent."""
    return save(draw(records, library), [stem.with_name(stem.name + suffix) for suffix in FIGURES])


def draw(records: Sequence[Record], library: str) -> Figure:
    """A figure of records of one rate; `library` is the MPI library's name and version."""
    records = [record for record in records if record.nbytes >= SMALLEST] or records
    numbers = sorted({record.ranks for record in records})
    names = cases(records)
    grid = panels(len(numbers), (4.1, 3.1), (2.4, 0.9), sharex=True, sharey=True)
    figure = grid[0, 0].figure
    for axes, ranks in zip(grid.flat, numbers, strict=False):
        _panel(axes, ranks, [record for record in records if record.ranks == ranks], names)
    _axes(figure.axes, records)
    for axes in grid[:, 0]:
        axes.set_ylabel("share of the link's rate")
    figure.supxlabel(_below(records), fontsize="medium")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    title = f"All-reduce over links of {rate_text(records[0].rate)}, one rank per host ({library})"
    figure.suptitle(title, fontsize="large", x=0.01, ha="left")
    return figure


def _panel(axes: Axes, ranks: int, records: Sequence[Record], names: Sequence[str]) -> None:
    """All cases of a number of ranks, the same colour for the same case in every panel."""
    for name in names:
        line = sorted((record.nbytes, record.share) for record in records if record.case == name)
        axes.plot([nbytes for nbytes, _ in line], [share for _, share in line], label=name, **_style(name, names))
    axes.set_title(f"{ranks} ranks", fontsize="medium", loc="left")


def _style(name: str, names: Sequence[str]) -> dict:
    if name == RAW:
        return {"color": "black", "linestyle": "--", "linewidth": 1.6, "zorder": 3}
    if name == LIBRARY:
        return {"color": "0.55", "linewidth": 2.6, "zorder": 1.5}
    number = [other for other in names if other not in (RAW, LIBRARY)].index(name)
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.3, "alpha": 0.9}


def _below(records: Sequence[Record]) -> str:
    excess = max(record.share for record in records) > 1.02
    return "size of the buffer" + (" (shares above 100% are of what idle links let through at once)" if excess else "")


def _axes(panels: Sequence[Axes], records: Sequence[Record]) -> None:
    """Sizes on a logarithmic scale; shares on a linear one, from nothing to a little over all of the link."""
    ticks = _ticks(sorted({record.nbytes for record in records}))
    top = min(TOP, max(1.05, 1.05 * max(record.share for record in records)))
    for axes in panels:
        over_sizes(axes, ticks)
        axes.set_ylim(0, top)
        axes.set_yticks([0.2 * i for i in range(6)])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.tick_params(labelbottom=True)
        axes.axhline(1, color="0.6", linewidth=0.8, zorder=1)


def _ticks(sizes: Sequence[int]) -> list[int]:
    """The largest size, and of the others those whose names do not run into the next one's."""
    apart = (sizes[-1] / sizes[0]) ** (1 / LABELS)
    ticks = [sizes[-1]]
    for size in sizes[-2::-1]:
        if ticks[-1] / size >= apart:
            ticks.append(size)
    return ticks[::-1]
