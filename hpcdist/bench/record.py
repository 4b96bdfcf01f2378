"""Results of ours beside the libraries: what jobs measured, what is known of the peers."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import msgspec
from msgspec import field

from hpcdist.bench import saved
from hpcdist.util.sampling import Spread
from hpcdist.util.sizes import format_bytes

HERE = "here"  # the place of ranks on this machine
NETWORK, ALGORITHMS = "network", "algorithms"  # the parts of which the report has one for each cluster
COMMITS, AGAIN = "commits", "commits again"
WRONG = Spread(nan, nan, nan, 0)  # stands where results were wrong


class Row(saved.Row):
    """One size in one job.

    Attributes:
        part: Of the report: "node", "algorithms", "halves", "addresses", "commits", "commits again" or "network".
        place: Where: `HERE`, or the rate of the links, as "200mbit", then the racks, as "2 racks, 100mbit to each".
        ranks: How many.
        round: In which the job was.
        peer: The library of the job.
        nbytes: Of the buffer.
        samples: Of each case.
        us: Case -> microseconds of a call, the median over samples, each that of the slowest rank.
        ratios: "a / b" -> the median over samples of the times of a over those of b.
        wrong: Case -> wrong elements, on all ranks.
        cores: Case -> the part of all cores that was busy in its samples; on virtual hosts only.
        refill: Case -> bytes that a link's token bucket held again when a sample of it began, the median over samples;
            on virtual hosts only.
        predicted: Case -> microseconds of a call by the price model, where it was fitted.
        chosen: What "auto" took.
        tuned: Whether "auto" went by a table that was made for these ranks.
    """

    part: str
    place: str
    ranks: int
    round: int
    peer: str
    nbytes: int
    samples: int
    us: dict[str, float]
    ratios: dict[str, float]
    wrong: dict[str, int]
    cores: dict[str, float] = field(default_factory=dict)
    refill: dict[str, float] = field(default_factory=dict)
    predicted: dict[str, float] = field(default_factory=dict)
    chosen: str = ""
    tuned: bool = False

    def problems(self) -> list[str]:
        """Cases with wrong elements."""
        where = f"{self.place}, {self.ranks} ranks, {self.peer}"
        return [
            f"{where}, {case}, {format_bytes(self.nbytes)}, round {self.round + 1}: {number} elements"
            for case, number in self.wrong.items()
            if number
        ]


class Judgement(msgspec.Struct):
    """How the price model and the table of a cluster did.

    Attributes:
        place: As of a row.
        ranks: How many.
        model: Prices fitted by the sweep that tuned.
        model_error: Median of |predicted - measured| / measured over all algorithms and sizes of that sweep.
        sizes: How many a later sweep measured.
        worse: Bytes -> time of what "auto" takes over that of the best, at the sizes at which it is more than 1.05.
    """

    place: str
    ranks: int
    model: dict[str, float | None]
    model_error: float
    sizes: int = 0
    worse: dict[str, float] = field(default_factory=dict)

    @property
    def near(self) -> float | None:
        """The part of the sizes at which what "auto" takes was within 5 % of the best, if there was a later sweep."""
        return near([self])


def near(judgements: Sequence[Judgement]) -> float | None:
    """The part of all their sizes at which what "auto" takes was within 5 % of the best; None without any."""
    sizes = sum(each.sizes for each in judgements)
    return 1 - sum(len(each.worse) for each in judgements) / sizes if sizes else None


class Part(saved.Part):
    """How a part of the report came about, and its results.

    Attributes:
        rows: One for each size in each job.
        peers: Library -> versions.
        model: Prices, where they were fitted.
        judgement: Of the table of a cluster, where there is one.
    """

    rows: list[Row] = field(default_factory=list)
    peers: dict[str, str] = field(default_factory=dict)
    model: dict[str, float | None] = field(default_factory=dict)
    judgement: Judgement | None = None

    def software(self) -> list[str]:
        """What the head says of each library says it."""
        return []


Report = saved.Report[Part]


def part_of(name: str, place: str, ranks: int) -> str:
    """What the report calls a part; that of each cluster stands by itself."""
    return f"{name}, {place}, {ranks} ranks" if name in (NETWORK, ALGORITHMS) and place != HERE else name
