"""One measured result, and the JSON and CSV files that hold them all.

Times are microseconds and bandwidths decimal GB/s, as nccl-tests prints them, since people read these files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hpcdist.device.paths import HOST
from hpcdist.util import atomic_files, typed_json
from hpcdist.util.sizes import format_bytes

T = TypeVar("T")

VERSION = 1
WHOLE = 1 << 30  # bytes of a segment from which on messages are whole: no message is larger
LIBRARY = "MPI_Allreduce"  # the name under which the MPI library's own all-reduce stands beside ours
FIXED = "library:"  # and before the names of its algorithms, where each is measured by itself
FIGURES = (".png", ".svg")
PLACEMENTS = ("out_of_place", "in_place")


@dataclass(frozen=True)
class Times:
    """Microseconds per operation: statistics over samples, each sample the maximum over ranks."""

    time_us_min: float
    time_us_p50: float
    time_us_mean: float
    time_us_p95: float
    time_us_p99: float
    time_us_max: float

    @classmethod
    def of(cls, seconds: NDArray[np.float64]) -> Times:
        """Statistics of samples given in seconds; a percentile is a sample that was really measured."""
        us = seconds * 1e6
        p50, p95, p99 = np.percentile(us, (50, 95, 99), method="inverted_cdf").tolist()
        return cls(us.min().item(), p50, us.mean().item(), p95, p99, us.max().item())


@dataclass(frozen=True)
class Record:
    """One (algorithm, size, dtype, op, placement, path): how long it took, what it sent, and whether it was right.

    `iterations` operations ran back to back in each of `samples` samples; bandwidths are of the median time.
    `sent_bytes` is what a rank sends, the mean over ranks, and `sent_bytes_max` what the busiest one sends,
    both counted as if chunks were of equal length. These, the prediction and the segment are None for the MPI
    library, which does not tell; one of its own algorithms may have been given a segment, though. `wrong` counts
    elements over all ranks, and is None if nothing was checked. `memory` is where the buffers lie, "host" or the kind
    of device, and `path` how they travel, "host" for host memory; nothing is predicted for device memory.
    """

    algorithm: str
    nbytes: int
    count: int
    dtype: str
    op: str
    placement: str
    ranks: int
    nodes: int
    segment_nbytes: int | None
    timing: str
    samples: int
    iterations: int
    times: Times
    algbw: float
    busbw: float
    sent_bytes: float | None
    sent_bytes_max: float | None
    predicted_us: float | None
    wrong: int | None
    library: str
    host: str
    command: str
    memory: str = HOST
    path: str = HOST

    def row(self) -> dict[str, Any]:
        """The record as one flat row, in the order of the fields."""
        nested = {field.name: getattr(self, field.name) for field in fields(self)}
        parts = (asdict(value) if isinstance(value, Times) else {name: value} for name, value in nested.items())
        return {name: value for part in parts for name, value in part.items()}

    @classmethod
    def of(cls, row: dict[str, Any]) -> Record:
        """The record that makes this row; one that tells nothing of memory and path is of host memory.

        Raises: KeyError if the row lacks another column.
        """
        times = Times(**{field.name: row[field.name] for field in fields(Times)})
        columns = [field.name for field in fields(cls) if field.name in row or field.default is MISSING]
        return cls(times=times, **{name: row[name] for name in columns if name != "times"})


def of_library(algorithm: str) -> bool:
    """Whether this is the MPI library's own all-reduce, by its own choice of algorithm or by a fixed one."""
    return algorithm == LIBRARY or algorithm.startswith(FIXED)


def point(record: Record) -> tuple:
    """What tells one measurement from another."""
    return (
        record.ranks, record.nodes, record.dtype, record.op, record.nbytes,
        record.algorithm, record.segment_nbytes, record.placement, record.timing, record.memory, record.path,
    )  # fmt: skip


def grouped(records: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Records, or what else, by key, in the order in which the keys first appear."""
    groups: dict[Any, list[T]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return groups


def labels(records: Iterable[Record]) -> dict[tuple[str, int | None], str]:
    """A name for each (algorithm, segment): the algorithm's, with "/64KiB" where several segments were measured."""
    cases = dict.fromkeys((record.algorithm, record.segment_nbytes) for record in records)
    several = Counter(algorithm for algorithm, _ in cases)
    return {
        (algorithm, segment): f"{algorithm}/{segment_name(segment)}" if several[algorithm] > 1 else algorithm
        for algorithm, segment in cases
    }


def segment_name(segment_nbytes: int | None) -> str:
    """A segment for people: "64KiB", "whole" for none, "-" where nobody knows."""
    if segment_nbytes is None:
        return "-"
    return format_bytes(segment_nbytes).replace(" ", "") if 0 < segment_nbytes < WHOLE else "whole"


def bandwidths(nbytes: int, seconds: float, ranks: int) -> tuple[float, float]:
    """(algbw, busbw) in GB/s, by nccl-tests' definition: busbw = algbw * 2(p-1)/p, zero for a lone rank.

    busbw is what each link of a flat network must carry in an all-reduce that wastes nothing, so it can be
    compared with the link's speed for any number of ranks p.
    """
    algbw = nbytes / seconds / 1e9
    return algbw, algbw * 2 * (ranks - 1) / ranks


@dataclass
class Report:
    """All that a sweep leaves behind, growing point by point: its options, the fitted prices, the results."""

    start_time: datetime
    command: Sequence[str]
    machine: dict[str, Any]
    config: dict[str, Any]
    model: dict[str, float | None]
    results: list[Record]
    interrupted: bool = False

    def as_json(self) -> dict[str, Any]:
        """One object, whose list `results` holds one row per record."""
        return {
            "version": VERSION,
            "start_time": self.start_time.isoformat(timespec="seconds"),
            "command": list(self.command),
            "machine": self.machine,
            "config": self.config,
            "model": self.model,
            "interrupted": self.interrupted,
            "results": [record.row() for record in self.results],
        }


def figure_paths(path: Path) -> list[Path]:
    """The files to write for `--figure path`: that one, or a PNG and an SVG if it names neither."""
    return [path] if path.suffix in FIGURES else [path.with_name(path.name + suffix) for suffix in FIGURES]


def write_json(path: Path, report: Report) -> None:
    """Write the report as JSON; the file is whole or absent."""
    atomic_files.write_text(path, typed_json.text(report.as_json()))


def read_json(path: Path) -> tuple[dict[str, Any], list[Record]]:
    """What a sweep wrote: the head of its report, without `results`, and its records.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no report of a sweep.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        if report["version"] != VERSION:
            raise ValueError(f"{path}: version {report['version']} of a sweep's report; this hpcdist reads {VERSION}")
        return report, [Record.of(row) for row in report.pop("results")]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not what `hpcdist sweep --json` writes ({type(error).__name__}: {error})") from None


def write_csv(path: Path, records: Sequence[Record]) -> None:
    """Write one row per record below a line of names; the file is whole or absent."""
    names = [field.name for field in fields(Record)]
    at = names.index("times")
    names[at : at + 1] = [field.name for field in fields(Times)]
    atomic_files.write_csv(path, names, (record.row() for record in records))
