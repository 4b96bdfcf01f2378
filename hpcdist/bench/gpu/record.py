"""What was measured, and its JSON."""

from __future__ import annotations

from typing import Self

import numpy as np
from msgspec import field
from numpy.typing import NDArray

from hpcdist.bench import saved


class Limit(saved.Row, frozen=True):
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

    @classmethod
    def of(
        cls,
        ranks: int,
        nbytes: int,
        one: NDArray[np.float64],
        every: NDArray[np.float64],
        floor: NDArray[np.float64],
    ) -> Self:
        """Of the rounds' seconds."""
        alone, together = (float(np.median(2 * nbytes / times / 1e9)) for times in (one, every))
        return cls(ranks, nbytes, alone, ranks * together, float(np.median(floor)) * 1e6)


class Record(saved.Row, frozen=True):
    """One algorithm on one path, sums of float32 in place.

    Attributes:
        ranks: that took part.
        nbytes: of the buffer.
        algorithm: ours, the MPI library's or NCCL's.
        path: how the buffers travelled.
        segment_nbytes: bytes of a segment; None for others than ours.
        rounds: samples, each that of the slowest rank.
        time_us_p50: microseconds per operation, the median; p10 and p90 beside it.
        busbw: decimal GB/s, of the median.
        share: of the floor: its time over this one, paired by round: the median; p10 and p90 beside it. None for a lone
            rank, which need not move anything.
        to_staged: the time of the same algorithm on the staged path over this one, paired by round; None for itself.
        to_library: the time of the MPI library on copies in host memory over this one, likewise.
        wrong: elements, over all ranks.
    """

    ranks: int
    nbytes: int
    algorithm: str
    path: str
    segment_nbytes: int | None
    rounds: int
    time_us_p50: float
    time_us_p10: float
    time_us_p90: float
    busbw: float
    share: float | None
    share_p10: float | None
    share_p90: float | None
    to_staged: float | None
    to_library: float | None
    wrong: int


class Report(saved.Report):
    """Limits and results.

    `missing` says in words what was left out or failed: each text with the numbers of ranks of which it holds.
    """

    limits: list[Limit] = field(default_factory=list)
    results: list[Record] = field(default_factory=list)
    missing: dict[str, list[int]] = field(default_factory=dict)

    def miss(self, ranks: int, what: str) -> None:
        """Note that something was left out or failed on so many ranks."""
        self.missing.setdefault(what, []).append(ranks)

    @property
    def wrong(self) -> list[Record]:
        """Results with wrong elements."""
        return [record for record in self.results if record.wrong]
