"""A report on GPUs as Markdown: for each number of ranks the limit, the times, and what they are beside others."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence

from hpcdist.bench.cells import rows
from hpcdist.bench.gpu.bench import LARGE, ROW, TURN
from hpcdist.bench.gpu.options import LEAST
from hpcdist.bench.gpu.record import Limit, Record, Report
from hpcdist.device.paths import PEER, STAGED
from hpcdist.sweep.record import LIBRARY, of_library
from hpcdist.util.sampling import digits
from hpcdist.util.sizes import format_bytes

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


def text(report: Report) -> str:
    """The whole report."""
    return "\n".join([*_head(report), EXPLANATION, *blocks(report)]) + "\n"


def _head(report: Report) -> Iterator[str]:
    title = "# All-reduce of device buffers on one machine"
    yield from [title, "", f"    {shlex.join(report.command)}", "", f"{report.start_time}."]
    yield from [_machine(report), ""] if report.machine else [""]


def _machine(report: Report) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    gpus = ", ".join(f"{number} x {name}" for name, number in machine["devices"]["names"].items())
    drivers = ", ".join(f"{name} {number}" for name, number in machine["devices"]["versions"].items())
    cores = f"{machine['cores_per_host']} cores of {machine['cpu']}"
    parts = [f"{gpus} ({drivers})" if drivers else gpus, cores, machine["mpi"], versions]
    return f"{', '.join(machine['hosts'])}: {'; '.join(parts)}. CUDA's Multi-Process Service {machine['mps']}."


def blocks(report: Report) -> Iterator[str]:
    """The tables, and what is missing or wrong."""
    for ranks in dict.fromkeys(limit.ranks for limit in report.limits):
        limits = [limit for limit in report.limits if limit.ranks == ranks]
        yield from _ranks(ranks, limits, [record for record in report.results if record.ranks == ranks])
    if report.missing:
        lines = (f"- {_counted(ranks)}: {what}" for what, ranks in report.missing.items())
        yield from ["## Missing", "", *lines, ""]
    if report.wrong:
        wrong = (f"- {r.ranks} ranks, {_name(r)}, {format_bytes(r.nbytes)}: {r.wrong} elements" for r in report.wrong)
        yield from ["## WRONG", "", *wrong, ""]
    elif report.results:
        yield "Every element of every result was right."


def _ranks(ranks: int, limits: Sequence[Limit], records: Sequence[Record]) -> Iterator[str]:
    """All tables of a number of ranks."""
    title = _counted([ranks])
    yield from _limits(title, limits)
    yield from _table(f"{title}: time [us]", records, limits, lambda r: digits(r.time_us_p50))
    if ranks == 1:
        return
    yield from _table(f"{title}: share of the floor", records, limits, _share)
    yield from _beside_staged(title, records, limits)
    others = [record for record in records if record.to_library is not None]
    yield from _table(
        f"{title}: how many times as fast as the staged {LIBRARY}", others, limits, lambda r: _times(r.to_library)
    )


def _counted(ranks: Sequence[int]) -> str:
    """How many ranks there were: "1, 2 and 4 ranks"."""
    *others, last = map(str, ranks)
    numbers = f"{', '.join(others)} and {last}" if others else last
    return f"{numbers} rank{'s' if max(ranks) > 1 else ''}"


def _limits(title: str, limits: Sequence[Limit]) -> Iterator[str]:
    yield from [f"## {title}: device copy", ""]
    lines = [
        ["by one rank [GB/s]", *(digits(limit.one_GBps) for limit in limits)],
        ["by all ranks at once [GB/s]", *(digits(limit.all_GBps) for limit in limits)],
        ["floor [us]", *(digits(limit.floor_us) for limit in limits)],
    ]
    yield from rows(["", *(format_bytes(limit.nbytes) for limit in limits)], lines)


def _table(
    title: str, records: Sequence[Record], limits: Sequence[Limit], cell: Callable[[Record], str]
) -> Iterator[str]:
    """A row for each algorithm and path, a column for each size."""
    yield from [f"## {title}", ""]
    yield from rows(_columns(limits), [_row(name, records, limits, cell) for name in dict.fromkeys(map(_key, records))])


def _beside_staged(title: str, records: Sequence[Record], limits: Sequence[Limit]) -> Iterator[str]:
    """The ratio staged / peer, or aware, of each algorithm, and of the fastest ones."""
    ours = [record for record in records if not of_library(record.algorithm)]
    yield from [f"## {title}: how many times as fast as the same algorithm staged", ""]
    compared = [record for record in ours if record.to_staged is not None]
    lines = [_row(key, compared, limits, lambda r: _times(r.to_staged)) for key in dict.fromkeys(map(_key, compared))]
    fastest = [_fastest(ours, limit.nbytes) for limit in limits]
    yield from rows(_columns(limits), [*lines, ["fastest", PEER, *fastest]])


def _fastest(records: Sequence[Record], nbytes: int) -> str:
    """The fastest algorithm staged over the fastest by memory of peers, by their medians."""
    times = {
        path: [record.time_us_p50 for record in records if (record.nbytes, record.path) == (nbytes, path)]
        for path in (STAGED, PEER)
    }
    return _times(min(times[STAGED]) / min(times[PEER])) if all(times.values()) else "-"


def _row(
    key: tuple[str, str], records: Sequence[Record], limits: Sequence[Limit], cell: Callable[[Record], str]
) -> list[str]:
    found = {record.nbytes: cell(record) for record in records if _key(record) == key}
    return [*key, *(found.get(limit.nbytes, "-") for limit in limits)]


def _columns(limits: Sequence[Limit]) -> list[str]:
    return ["algorithm", "path", *(format_bytes(limit.nbytes) for limit in limits)]


def _key(record: Record) -> tuple[str, str]:
    return record.algorithm, record.path


def _name(record: Record) -> str:
    return f"{record.algorithm} {record.path}"


def _share(record: Record) -> str:
    if record.share is None or record.share_p10 is None or record.share_p90 is None:
        return "-"
    return f"{record.share:.0%} ({record.share_p10:.0%}-{record.share_p90:.0%})"


def _times(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"
