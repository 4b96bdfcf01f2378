"""`hpcdist bench gpu`: its options, its rows, its tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click
from msgspec import field

from hpcdist.algorithms import ALLREDUCE, SHARED, check
from hpcdist.bench import options, page, saved
from hpcdist.bench.draft import Draft, Kind
from hpcdist.bench.jobs import everywhere
from hpcdist.device.paths import ASKABLE, AUTO, AWARE, PEER, STAGED
from hpcdist.kernels.device import cupy_with_gpu
from hpcdist.sweep.record import LIBRARY, of_library
from hpcdist.util.parameters import Listed
from hpcdist.util.sampling import Spread, digits
from hpcdist.util.sizes import format_bytes

SIZES = "4KiB,16KiB,64KiB,256KiB,1MiB,4MiB,16MiB,64MiB,256MiB"
ALGORITHMS = ",".join((*(name for name in ALLREDUCE if name != "hierarchical"), SHARED))  # there is but one node
PATHS = tuple(path for path in ASKABLE if path != AUTO)
LEAST = 5  # rounds of each size, however long they take
ROW = 10  # copies in a row of large buffers
LARGE = 1 << 20  # bytes from which buffers are
TURN = 256 << 20  # bytes read and written before a buffer's turn comes again, several times what a cache holds


class Limit(saved.Row, tag="limit"):
    """Copies within the devices' memory: medians over rounds; bandwidths in decimal GB/s, of bytes read and written.

    Attributes:
        ranks: that were there.
        nbytes: of the buffer that each copied.
        one_GBps: by one rank, while the others wait.
        all_GBps: by all ranks at once, all of them together.
        floor_us: microseconds in which the buffers of all ranks can be read and written once.
    """

    ranks: int
    nbytes: int
    one_GBps: float
    all_GBps: float
    floor_us: float


class Record(saved.Row, tag="record"):
    """One algorithm on one path, sums of float32 in place.

    Attributes:
        ranks: that took part.
        nbytes: of the buffer.
        algorithm: ours, the MPI library's or NCCL's.
        path: how the buffers travelled.
        segment_nbytes: bytes of a segment; None for others than ours.
        us: microseconds per operation, over samples, each that of the slowest rank.
        busbw: decimal GB/s, of the median.
        share: of the floor: its time over this one, paired by round. None for a lone rank, which need not move
            anything.
        to_staged: the time of the same algorithm on the staged path over this one, paired by round; None for itself.
        to_library: the time of the MPI library on copies in host memory over this one, likewise.
        wrong: elements, over all ranks.
    """

    ranks: int
    nbytes: int
    algorithm: str
    path: str
    segment_nbytes: int | None
    us: Spread
    busbw: float
    share: Spread | None
    to_staged: float | None
    to_library: float | None
    wrong: int

    def problems(self) -> list[str]:
        """Wrong elements."""
        what = f"{self.algorithm} {self.path}, {format_bytes(self.nbytes)}: {self.wrong} elements"
        return [what] if self.wrong else []


class Part(saved.Part):
    """A number of ranks."""

    rows: list[Limit | Record] = field(default_factory=list)


Report = saved.Report[Part]


EXPLANATION = f"""\
- Sums of float32 in place, in device memory. Every element of every result is compared with its exact value on every
  rank before anything is timed. Times are those of the host's clock, from the call until the result is there; a sample
  is that of the slowest rank. All cases of a size run in the same rounds, at least {LEAST}, and ratios are medians of
  the rounds' ratios.
- Paths: `staged` goes through page-locked host memory, `aware` hands device memory to MPI, `peer` reads the other
  ranks' device memory. `{LIBRARY}` on the path `staged` is a copy to page-locked host memory, the library's all-reduce
  there, and a copy back.
- The device copy is measured in the same rounds: by one rank while the others wait, and by all at once. Its bandwidth
  counts bytes read and written. From {format_bytes(LARGE)} on it is {ROW} copies in a row, through so many buffers that
  {format_bytes(TURN)} are read and written before one has its turn again, which no cache holds; below it is one copy
  and the wait for it.
- The floor: an all-reduce must read the buffer of every rank and write it, as many bytes as one copy by each rank. It
  is the time of that on the GPU that most ranks share, by the faster of the two copies. For small buffers the floor is
  what one launch and the wait for it take, and they may lie in the cache. Where ranks have GPUs of their own, links
  between them are not in the floor.
- Share: the floor over the time, paired by round; 100 % is not to be had, and a lone rank has none.
"""


def text(report: Report, figures: Mapping[str, str]) -> str:
    """The report as Markdown."""
    body = [EXPLANATION]
    for name, part in report.parts.items():
        limits = [row for row in part.rows if isinstance(row, Limit)]
        body += Tables(name, limits).all([row for row in part.rows if isinstance(row, Record)]) if limits else []
    title = "All-reduce of device buffers on one machine"
    return page.page(title, report, body, "Every element of every result was right.")


class Tables:
    """Those of a number of ranks, with a column for each size."""

    def __init__(self, title: str, limits: Sequence[Limit]) -> None:
        self.title, self.limits = title, limits
        self.sizes = [format_bytes(limit.nbytes) for limit in limits]

    def all(self, records: Sequence[Record]) -> Iterator[str]:
        """All of them."""
        yield from [f"## {self.title}: device copy", ""]
        limits = {
            "by one rank [GB/s]": [limit.one_GBps for limit in self.limits],
            "by all ranks at once [GB/s]": [limit.all_GBps for limit in self.limits],
            "floor [us]": [limit.floor_us for limit in self.limits],
        }
        yield from page.rows(["", *self.sizes], [[name, *map(digits, values)] for name, values in limits.items()])
        yield from self._table("time [us]", records, lambda r: digits(r.us.median))
        if self.limits[0].ranks == 1:
            return
        yield from self._table("share of the floor", records, lambda r: page.percent(r.share) if r.share else "-")
        ours = [record for record in records if not of_library(record.algorithm)]
        compared = [record for record in ours if record.to_staged is not None]
        fastest = ["fastest", PEER, *(_fastest(ours, limit.nbytes) for limit in self.limits)]
        title = "how many times as fast as the same algorithm staged"
        yield from self._table(title, compared, lambda r: _times(r.to_staged), fastest)
        others = [record for record in records if record.to_library is not None]
        yield from self._table(
            f"how many times as fast as the staged {LIBRARY}", others, lambda r: _times(r.to_library)
        )

    def _table(
        self, title: str, records: Sequence[Record], cell: Callable[[Record], str], *more: list[str]
    ) -> Iterator[str]:
        """A row for each algorithm and path."""
        yield from [f"## {self.title}: {title}", ""]
        cells = {(record.algorithm, record.path, record.nbytes): cell(record) for record in records}
        lines = [
            [*key, *(cells.get((*key, limit.nbytes), "-") for limit in self.limits)]
            for key in dict.fromkeys((record.algorithm, record.path) for record in records)
        ]
        yield from page.rows(["algorithm", "path", *self.sizes], [*lines, *more])


def _fastest(records: Sequence[Record], nbytes: int) -> str:
    """The fastest algorithm staged over the fastest by memory of peers, by their medians."""
    times = {
        path: [record.us.median for record in records if (record.nbytes, record.path) == (nbytes, path)]
        for path in (STAGED, PEER)
    }
    return _times(min(times[STAGED]) / min(times[PEER])) if all(times.values()) else "-"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


KIND = Kind("gpu", "gpu", Part, text)


def measure(draft: Draft[Part], ranks: tuple[int, ...], **asked: Any) -> None:
    """A job for each number of ranks."""
    try:
        cupy_with_gpu()
    except RuntimeError as error:
        raise click.ClickException(f"nothing was measured: {error}") from None
    everywhere(draft, "hpcdist.bench.gpu.ranks", asked, ranks)


def _path(text: str) -> str:
    if text not in PATHS:
        raise ValueError(f"there is no path {text!r}; choose from {', '.join(PATHS)}")
    return text


command = options.verb(
    KIND,
    "gpu",
    "All-reduces of device buffers on this machine's GPUs, which ranks share where there are fewer.",
    measure,
    options.sizes(SIZES),
    click.option(
        "--algorithms", type=Listed("names", check), default=ALGORITHMS, show_default=True, help="Ours to measure."
    ),
    click.option(
        "--paths",
        type=Listed("paths", _path),
        default=",".join((STAGED, AWARE, PEER)),
        show_default=True,
        help="On which; what this machine or its MPI cannot do is left out, and the report says why.",
    ),
    options.numbers("--ranks", "1,2,4,8", "Of this machine.", least=1),
    options.rounds(31, least=LEAST),
    options.seconds(0.3, f"About so long for a case at a size; {LEAST} rounds are always done."),
)
