"""Results on one network: what was measured, its JSON and its CSV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import field
from msgspec.structs import asdict
from numpy.typing import NDArray

from hpcdist.bench import saved
from hpcdist.util import atomic_files

RAW = "raw TCP"
WHOLE = "ring, whole messages"  # the ring once more, without segments


def link_bytes(ranks: int, nbytes: int) -> float:
    """What each link must carry each way in an all-reduce that wastes nothing: 2(p-1)/p of the buffer."""
    return 2 * (ranks - 1) / ranks * nbytes


def share(ranks: int, nbytes: int, seconds: float, rate: float) -> float:
    """The part of a link's rate [bit/s] that an all-reduce in so many seconds makes use of; 1 is all of it."""
    return link_bytes(ranks, nbytes) * 8 / (seconds * rate)


def paired(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """The median of the rounds' ratios ours / theirs; rounds that only one of them took part in are left out."""
    rounds = min(len(ours), len(theirs))
    return float(np.median(ours[:rounds] / theirs[:rounds]))


class Record(saved.Row, frozen=True):
    """One case at one rate, number of ranks and size.

    Times are microseconds per operation, each sample that of the slowest rank; `busbw` is decimal GB/s of the median.
    `share` is the part of the link's rate that this is. `to_raw` and `to_library` are ratios of times, paired round by
    round: below 1 this case was faster. `cores_busy` is the part of rank 0's cores that was busy in the samples, with
    those that wait for MPI, which spin. `refill` is how many bytes a link's bucket had to spare at the start of a
    sample, the median over samples. `segment_nbytes` is 0 for whole messages; it and `predicted_us` are None where
    nothing of ours runs, and `wrong` (elements, over all ranks) for raw TCP, which has no result.
    """

    rate: int
    ranks: int
    nbytes: int
    case: str
    segment_nbytes: int | None
    samples: int
    time_us_p50: float
    time_us_p10: float
    time_us_p90: float
    busbw: float
    share: float
    to_raw: float
    to_library: float
    predicted_us: float | None
    cores_busy: float
    refill: float
    wrong: int | None


class Report(saved.Report):
    """Results on one network; `missing` says in words what failed or was not done."""

    models: list[dict[str, Any]] = field(default_factory=list)  # for each rate and number of ranks
    results: list[Record] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> list[Record]:
        """Results with wrong elements."""
        return [record for record in self.results if record.wrong]

    def write_csv(self, path: Path) -> None:
        """Write one row per record below a line of names; the file is whole or absent."""
        atomic_files.write_csv(path, Record.__struct_fields__, map(asdict, self.results))


def cases(records: Iterable[Record]) -> list[str]:
    """The cases there are, in the order in which they first appear."""
    return list(dict.fromkeys(record.case for record in records))
