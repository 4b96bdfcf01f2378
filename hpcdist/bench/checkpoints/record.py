"""Results: what was measured, its statistics, its JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcdist.util import atomic_files
from hpcdist.util.sampling import Spread

VERSION = 1


def paired(limit: Sequence[float], ours: Sequence[float]) -> Spread:
    """The rounds' ratios limit / ours: 1 is as fast as the limit, 0.5 takes twice its time."""
    return Spread.of([a / b for a, b in zip(limit, ours, strict=True)])


@dataclass(frozen=True)
class Save:
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


@dataclass(frozen=True)
class Load:
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


@dataclass
class Report:
    """All results of one run, growing as they come; `missing` says in words what was left out or failed."""

    command: Sequence[str]
    start_time: str
    config: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=dict)
    saves: list[Save] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # what did not come back as it was saved

    def write_json(self, path: Path) -> None:
        """Write all of it; the file is whole or absent."""
        atomic_files.write_text(path, json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `write_json` wrote.

        Raises: OSError if it cannot be read; ValueError if it is something else.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved.pop("version") != VERSION:
                raise ValueError(f"{path} is of another version; this hpcdist reads {VERSION}")
            rows = {
                "saves": [Save(**_spreads(row)) for row in saved["saves"]],
                "loads": [Load(**_spreads(row)) for row in saved["loads"]],
            }
            return cls(**{**saved, **rows})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no report on checkpoints ({type(error).__name__}: {error})") from None


def _spreads(row: dict[str, Any]) -> dict[str, Any]:
    return {name: Spread(**value) if isinstance(value, dict) else value for name, value in row.items()}
