"""Results: what was measured, its statistics, its JSON."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import field

from hpcdist.bench import saved
from hpcdist.util.sampling import Spread


def paired(limit: Sequence[float], ours: Sequence[float]) -> Spread:
    """The rounds' ratios limit / ours: 1 is as fast as the limit, 0.5 takes twice its time."""
    return Spread.of([a / b for a, b in zip(limit, ours, strict=True)])


class Save(saved.Row, frozen=True):
    """One way to save one size on one number of ranks.

    Attributes:
        ranks: That took part.
        nbytes: Of the state.
        writers: Shards of ours, and raw files.
        way: See `ways.MEANING`.
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


class Load(saved.Row, frozen=True):
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
    """

    ranks: int
    savers: int
    nbytes: int
    way: str
    rounds: int
    seconds: Spread
    share: Spread
    cached: float


class Report(saved.Report):
    """What saves and restores took; `missing` says in words what was left out or failed."""

    saves: list[Save] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what did not come back as it was saved
