"""A report on checkpoints as Markdown: for each number of ranks what saves took, then what restores took."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from hpcdist.bench.cells import rows
from hpcdist.bench.checkpoints.record import Load, Report, Save
from hpcdist.bench.checkpoints.rounds import LEAST
from hpcdist.bench.checkpoints.ways import MEANING, RAW, present
from hpcdist.util.sampling import Spread, digits
from hpcdist.util.sizes import format_bytes

EXPLANATION = f"""\
- All ways save the same arrays of random bits, from the same memory, into the same folder, in rounds whose order is
  rotated; after each sample its files are removed, and before it the disks have been told to finish (`sync`). At least
  {LEAST} rounds.
- Blocking is the time until the slowest rank may change its arrays again; total is the time until all is durable and,
  where there is one, committed. Bandwidth is the state's bytes over the median total time, in decimal MB/s.
- Share is the total time of the raw files over that of the way, paired by round: its median, and in brackets the range
  of the middle 80 % of the rounds. Above 100 % a way was faster than the raw files, which are as many as ours has
  shards.
- Ways that write while the caller goes on copy the state first. Their writing alone, from there to the commit, is set
  against the raw files as well.
- Before each sample as much of the page cache is filled and freed as the files will take: a virtual machine may give
  memory that is free for a second back to its host, and to get it again takes longer than to write to the disk.
- Ours makes digests and renames, and has the disk begin while it still writes. The others do not.
- Before each restore the kernel is asked to drop the files from its page cache (posix_fadvise); `cached` says how much
  of them was still there. A disk of a virtual machine may have a cache beneath that nobody here can drop.
- Restores end with the whole state in the memory of each rank, checked after the time was taken; the raw files are read
  once, by all ranks together, into nothing.
"""


def text(report: Report, figure: str | None = None) -> str:
    """The whole report; `figure` is the file that it shows."""
    picture = [f"![share of raw files over size]({figure})", ""] if figure else []
    ways = rows(["way", "what it does"], [[f"`{name}`", MEANING[name]] for name in present(report.saves)])
    return "\n".join([*_head(report), *picture, EXPLANATION, *ways, *blocks(report)]) + "\n"


def _head(report: Report) -> Iterator[str]:
    yield from ["# Saving and restoring checkpoints", "", f"    {shlex.join(report.command)}", ""]
    if report.machine:
        yield from [f"{report.start_time}. {_machine(report)}", ""]


def _machine(report: Report) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    cores = f"{machine['cores_per_host']} cores of {machine['cpu']}"
    return f"{', '.join(machine['hosts'])}: {cores}; {machine['file_system']}; {machine['mpi']}; {versions}."


def blocks(report: Report) -> Iterator[str]:
    """The tables, and what is missing or wrong."""
    for ranks in dict.fromkeys(save.ranks for save in report.saves):
        yield from _saves([save for save in report.saves if save.ranks == ranks])
    if report.loads:
        yield from _loads(report.loads)
    if report.missing:
        yield from ["## Missing", "", *(f"- {what}" for what in report.missing), ""]
    if report.wrong:
        yield from ["## WRONG", "", *(f"- {what}" for what in report.wrong), ""]
    elif report.loads:
        yield "Whatever was restored was what had been saved, bit for bit."


FIGURES: Sequence[tuple[str, Callable[[Save], str]]] = (
    ("Share of raw files", lambda save: percent(save.share)),
    (
        "Share of raw files, of the writing alone",
        lambda save: percent(save.writing) if save.writing else "-",
    ),
    ("Blocking [ms]", lambda save: milliseconds(save.blocking)),
    ("Total [ms]", lambda save: milliseconds(save.total)),
    ("Bandwidth [MB/s]", lambda save: f"{save.bandwidth / 1e6:.0f}"),
    ("Files: bytes / those of the state", lambda save: f"{save.files}: {save.written / save.nbytes:.2f}"),
)


def _saves(saves: Sequence[Save]) -> Iterator[str]:
    """The tables of a number of ranks: a line for each size, a column for each way."""
    ways = present(saves)
    sizes = list(dict.fromkeys(save.nbytes for save in saves))
    for title, cell in FIGURES:
        yield from [f"## {saves[0].ranks} ranks: {title[0].lower()}{title[1:]}", ""]
        lines = [_size(nbytes, {s.way: s for s in saves if s.nbytes == nbytes}, ways, cell) for nbytes in sizes]
        yield from rows(["state", "shards", "rounds", *ways], lines)


def _size(nbytes: int, found: dict[str, Save], ways: Sequence[str], cell: Callable[[Save], str]) -> list[str]:
    any_way = found[RAW]
    cells = [cell(found[way]) if way in found else "-" for way in ways]
    return [format_bytes(nbytes), str(any_way.writers), str(any_way.rounds), *cells]


def _loads(loads: Sequence[Load]) -> Iterator[str]:
    yield from ["## Restoring", ""]
    head = ["saved by", "restored on", "state", "way", "rounds", "time [ms]", "MB/s", "share of raw files", "cached"]
    yield from rows(head, [_load(load) for load in loads])


def _load(load: Load) -> list[str]:
    return [
        f"{load.savers}",
        f"{load.ranks}",
        format_bytes(load.nbytes),
        f"{load.way}",
        f"{load.rounds}",
        milliseconds(load.seconds),
        f"{load.nbytes / load.seconds.median / 1e6:.0f}",
        percent(load.share),
        f"{100 * load.cached:.0f} %",
    ]


def milliseconds(seconds: Spread) -> str:
    """Median and range."""
    return f"{digits(1e3 * seconds.median)} ({digits(1e3 * seconds.low)}-{digits(1e3 * seconds.high)})"


def percent(share: Spread) -> str:
    """Median and range."""
    return f"{100 * share.median:.0f} % ({100 * share.low:.0f}-{100 * share.high:.0f})"
