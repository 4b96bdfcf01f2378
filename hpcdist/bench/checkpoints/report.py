"""`hpcdist bench checkpoints`: its options, its rows, its tables, its figure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec import field

from hpcdist.bench import options, page, saved
from hpcdist.bench.draft import Draft, Kind
from hpcdist.bench.jobs import everywhere
from hpcdist.util.sampling import Spread
from hpcdist.util.sizes import format_bytes, parse_bytes

SIZES = "1MiB,4MiB,16MiB,64MiB,256MiB,1GiB,4GiB"
ARRAYS = 16  # of equal size, so that writers that do not cut arrays can share them out evenly
UNIT = 8 * ARRAYS  # bytes: the state is a multiple of it
LEAST = 3  # rounds, however long they take

BACKGROUND, SHARDS, SINGLE, COLLECTIVE = "background", "shards", "single", "collective"
PLAIN, TORCH, TORCH_ASYNC, RAW = "plain h5py", "torch", "torch async", "raw files"
MEANING = {
    BACKGROUND: "hpcdist, shards, in the background: `Store.save`, then `Store.wait`",
    SHARDS: "hpcdist, shards, in the foreground",
    SINGLE: "hpcdist, one writer, in the foreground",
    COLLECTIVE: "hpcdist, one file by all ranks through parallel HDF5",
    PLAIN: "rank 0 writes one file with h5py, then fsync; no digests, no commit",
    TORCH: "torch.distributed.checkpoint.save, gloo, FileSystemWriter, which calls fsync",
    TORCH_ASYNC: "torch.distributed.checkpoint.async_save, until its future is done",
    RAW: "plain files of equal size, one by each writer, os.write and fsync at the same time",
}


class Save(saved.Row, tag="save"):
    """One way to save one size on one number of ranks.

    Attributes:
        ranks: That took part.
        nbytes: Of the state.
        writers: Shards of ours, and raw files.
        way: See MEANING.
        rounds: Samples.
        blocking: Seconds until the slowest rank could change its arrays.
        total: Seconds until all was durable, and committed where there is a commit.
        share: Total time of the raw files over this one's, paired by round.
        writing: The same over the time of the writing alone, where the caller goes on meanwhile.
        files: That one save left.
        written: The bytes they take on the disk.
    """

    ranks: int
    nbytes: int
    writers: int
    way: str
    rounds: int
    blocking: Spread
    total: Spread
    share: Spread
    writing: Spread | None
    files: int
    written: int

    @property
    def bandwidth(self) -> float:
        """Bytes of the state per second of the median total time."""
        return self.nbytes / self.total.median


class Load(saved.Row, tag="load"):
    """One way to restore, into the memory of all ranks; raw files are read once, by all ranks together.

    Attributes:
        ranks: That restored.
        savers: Ranks that had saved.
        nbytes: Of the state.
        way: As of the save.
        rounds: Samples.
        seconds: Of the slowest rank.
        share: Seconds of the raw files over this one's, paired by round.
        cached: Part of the files that was in the page cache at the beginning, the largest of all rounds.
        wrong: Whether something else came back than was saved.
    """

    ranks: int
    savers: int
    nbytes: int
    way: str
    rounds: int
    seconds: Spread
    share: Spread
    cached: float
    wrong: bool = False

    def problems(self) -> list[str]:
        """Whether it was wrong."""
        return [f"{format_bytes(self.nbytes)}: {self.way} restored something else"] if self.wrong else []


class Part(saved.Part):
    """A number of ranks."""

    rows: list[Save | Load] = field(default_factory=list)


Report = saved.Report[Part]


def present(saves: Iterable[Save]) -> list[str]:
    """The ways that there are results of, in the order of MEANING."""
    found = {save.way for save in saves}
    return [way for way in MEANING if way in found]


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


def text(report: Report, figures: Mapping[str, str]) -> str:
    """The report as Markdown."""
    saves = [row for row in report.rows if isinstance(row, Save)]
    loads = [row for row in report.rows if isinstance(row, Load)]
    body = [*page.picture("share of raw files over size", figures.get(KIND.name)), EXPLANATION]
    body += page.rows(["way", "what it does"], [[f"`{name}`", MEANING[name]] for name in present(saves)])
    for ranks in dict.fromkeys(save.ranks for save in saves):
        body += _saves([save for save in saves if save.ranks == ranks])
    body += _loads(loads) if loads else []
    right = "Whatever was restored was what had been saved, bit for bit." if loads else ""
    return page.page("Saving and restoring checkpoints", report, body, right)


FIGURES: Sequence[tuple[str, Callable[[Save], str]]] = (
    ("Share of raw files", lambda save: page.percent(save.share)),
    (
        "Share of raw files, of the writing alone",
        lambda save: page.percent(save.writing) if save.writing else "-",
    ),
    ("Blocking [ms]", lambda save: page.milliseconds(save.blocking)),
    ("Total [ms]", lambda save: page.milliseconds(save.total)),
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
        yield from page.rows(["state", "shards", "rounds", *ways], lines)


def _size(nbytes: int, found: dict[str, Save], ways: Sequence[str], cell: Callable[[Save], str]) -> list[str]:
    any_way = found[RAW]
    cells = [cell(found[way]) if way in found else "-" for way in ways]
    return [format_bytes(nbytes), str(any_way.writers), str(any_way.rounds), *cells]


def _loads(loads: Sequence[Load]) -> Iterator[str]:
    yield from ["## Restoring", ""]
    head = ["saved by", "restored on", "state", "way", "rounds", "time [ms]", "MB/s", "share of raw files", "cached"]
    yield from page.rows(head, [_load(load) for load in loads])


def _load(load: Load) -> list[str]:
    return [
        f"{load.savers}",
        f"{load.ranks}",
        format_bytes(load.nbytes),
        f"{load.way}",
        f"{load.rounds}",
        page.milliseconds(load.seconds),
        f"{load.nbytes / load.seconds.median / 1e6:.0f}",
        page.percent(load.share),
        f"{100 * load.cached:.0f} %",
    ]


def draw(folder: Path, report: Report) -> list[Path]:
    """Share of the raw files, and blocking time, over size, for each number of ranks."""
    from matplotlib.ticker import PercentFormatter

    from hpcdist.bench import curves
    from hpcdist.sweep.figure import panels, save

    saves = [row for row in report.rows if isinstance(row, Save)]
    numbers = sorted({each.ranks for each in saves})
    if not numbers:
        return []
    grid = panels(2 * len(numbers), (4.4, 3.0), (2.2, 0.4), sharex=True, sharey="col")
    for (share, blocking), ranks in zip(grid, numbers, strict=True):
        for axes, value in ((share, lambda each: each.share), (blocking, lambda each: each.blocking)):
            ways = {
                way: sorted(
                    ((e.nbytes, value(e)) for e in saves if (e.way, e.ranks) == (way, ranks)), key=lambda pair: pair[0]
                )
                for way in present(saves)
            }
            curves.draw(axes, ways, RAW)
        share.set_title(f"{ranks} rank{'s' if ranks > 1 else ''}", fontsize="medium", loc="left")
        share.set_ylabel("share of raw files")
        share.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        share.set_ylim(bottom=0)
        blocking.set(ylabel="blocking [s]", yscale="log")
    return save(curves.finish(grid[0, 0].figure, "Checkpoints"), [folder / f"{KIND.name}.png"])


KIND = Kind("checkpoints", "checkpoints", Part, text, draw)


def measure(draft: Draft[Part], ranks: tuple[int, ...], scratch: Path, torch: Path | None, **asked: Any) -> None:
    """A job for each number of ranks."""
    asked["torch"] = torch and torch.absolute()
    everywhere(draft, "hpcdist.bench.checkpoints.ranks", asked, ranks, scratch=scratch)


def _nbytes(text: str) -> int:
    nbytes = parse_bytes(text)
    if nbytes < UNIT or nbytes % UNIT:
        raise ValueError(f"{text!r} is no multiple of {UNIT} bytes, of which the arrays are made")
    return nbytes


command = options.verb(
    KIND,
    "checkpoints",
    "Saves and restores beside h5py, torch and plain files.",
    measure,
    options.sizes(SIZES, _nbytes, "Of the state."),
    options.numbers("--ranks", "1,2,4,8", "Of this machine.", least=1),
    options.rounds(20, least=LEAST),
    options.seconds(300, f"About so long for a number of ranks; {LEAST} rounds of each size are always done."),
    options.scratch(),
    click.option(
        "--torch",
        type=click.Path(dir_okay=False, exists=True, path_type=Path),
        help="A Python that has torch; without it, torch is left out.",
    ),
)
