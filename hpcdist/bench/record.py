"""Results: what jobs measured, what is known of the peers, their JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from math import nan
from pathlib import Path
from typing import Any, Self

import click

from hpcdist.util import atomic_files, typed_json
from hpcdist.util.sampling import Spread

VERSION = 1
HERE = "here"  # the place of ranks on this machine
NETWORK, ALGORITHMS = "network", "algorithms"  # the parts of which the report has one for each cluster


WRONG = Spread(nan, nan, nan, 0)  # stands where results were wrong


@dataclass(frozen=True)
class Row:
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


@dataclass(frozen=True)
class Judgement:
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


@dataclass
class Part:
    """How a part of the report came about; `missing` says in words what failed or was left out."""

    command: Sequence[str]
    start_time: str
    config: dict[str, Any]
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)
    peers: dict[str, str] = field(default_factory=dict)  # name -> versions
    model: dict[str, float | None] = field(default_factory=dict)  # prices, where they were fitted
    missing: list[str] = field(default_factory=list)

    def miss(self, what: str) -> None:
        """Note what failed or was left out, and say so."""
        self.missing.append(what)
        click.echo(f"Missing: {what}", err=True)


def part_of(name: str, place: str, ranks: int) -> str:
    """What the report calls a part; that of each cluster stands by itself."""
    return f"{name}, {place}, {ranks} ranks" if name in (NETWORK, ALGORITHMS) and place != HERE else name


def label(row: Row) -> str:
    """The part of the report that a row belongs to."""
    return part_of(row.part, row.place, row.ranks)


@dataclass
class Report:
    """All results, growing as they come; a part that is measured again replaces what there was of it.

    Attributes:
        parts: By `label`.
        judgements: One for each cluster that has a table.
        rows: One for each size in each job.
    """

    parts: dict[str, Part] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def begin(self, name: str, part: Part) -> None:
        """Forget what there is of a part, and start it anew."""
        self.parts[name] = part
        self.rows = [row for row in self.rows if label(row) != name]
        self.judgements = [each for each in self.judgements if part_of(NETWORK, each.place, each.ranks) != name]

    @property
    def wrong(self) -> list[tuple[Row, str]]:
        """Rows and cases with wrong elements."""
        return [(row, case) for row in self.rows for case, number in row.wrong.items() if number]

    def write_json(self, path: Path) -> None:
        """Write all of it, a row a line; the file is whole or absent."""
        head = {
            "version": VERSION,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
            "judgements": [asdict(each) for each in self.judgements],
        }
        rows = ",\n".join(f"  {typed_json.text(asdict(row), None)[:-1]}" for row in self.rows)
        atomic_files.write_text(path, f'{typed_json.text(head)[:-3]},\n "rows": [\n{rows}\n ]\n}}\n')

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write_json` wrote.

        Raises: OSError if it cannot be read; ValueError if it is something else.
        """
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            if saved["version"] != VERSION:
                raise ValueError(f"{path} is of another version; this hpcdist reads {VERSION}")
            return cls(
                {name: Part(**part) for name, part in saved["parts"].items()},
                [Judgement(**each) for each in saved["judgements"]],
                [Row(**row) for row in saved["rows"]],
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no report of hpcdist.bench ({type(error).__name__}: {error})") from None
