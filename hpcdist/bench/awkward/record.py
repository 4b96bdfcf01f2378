"""What one run on one number of ranks has found, and the JSON file that holds it. Needs no MPI."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hpcdist.util import atomic_files

VERSION = 1


@dataclass(frozen=True)
class Record:
    """One case at one size: times in microseconds per operation, each sample that of the slowest rank.

    `algorithm` is what ran, which for "auto" is what it stood for. It and `predicted_us` are None for the MPI library,
    which does not tell. `wrong` counts elements over all ranks.
    """

    case: str
    algorithm: str | None
    nbytes: int
    samples: int
    iterations: int
    time_us_p50: float
    time_us_p10: float
    time_us_p90: float
    predicted_us: float | None
    wrong: int

    @property
    def to_predicted(self) -> float | None:
        """How many times as long as predicted it took; None where nothing is predicted."""
        return self.time_us_p50 / self.predicted_us if self.predicted_us else None


@dataclass
class Run:
    """One number of ranks in one place: `topology` is the node, or rack, of each; `model` the prices found there."""

    command: Sequence[str]
    start_time: str
    machine: dict[str, Any]
    topology: Sequence[int]
    racks: int
    model: dict[str, float | None]
    results: list[Record] = field(default_factory=list)

    @property
    def ranks(self) -> int:
        """How many there were."""
        return len(self.topology)

    @property
    def place(self) -> str:
        """In words: "6 ranks on 6 hosts in 2 racks"."""
        hosts, racks = len(self.machine["hosts"]), f" in {self.racks} racks" if self.racks > 1 else ""
        return f"{self.ranks} ranks on {hosts} {'host' if hosts == 1 else 'hosts'}{racks}"

    @property
    def label(self) -> str:
        """In few words: "6, 2 racks"."""
        return f"{self.ranks}, {self.racks} racks" if self.racks > 1 else f"{self.ranks} ranks"

    def write(self, path: Path) -> None:
        """Write all of it; the file is whole or absent."""
        atomic_files.write_text(path, json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Run:
        """What `write` wrote.

        Raises: OSError if it cannot be read; ValueError if it is something else.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved.pop("version") != VERSION:
                raise ValueError(f"{path} is of another version; this hpcdist reads {VERSION}")
            return cls(**{**saved, "results": [Record(**row) for row in saved["results"]]})
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path} is no record of hpcdist.bench.awkward ({type(error).__name__}: {error})"
            ) from None
