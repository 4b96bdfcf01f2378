"""What one run on one number of ranks has found, and the JSON file that holds it. Needs no MPI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import field

from hpcdist.bench import saved


class Record(saved.Row, frozen=True):
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


class Run(saved.Saved):
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
