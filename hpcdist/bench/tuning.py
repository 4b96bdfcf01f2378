"""Tables for "auto": made by `hpcdist sweep --tune` where they are used, and judged by a later sweep there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hpcdist.bench.peers import Peer
from hpcdist.bench.processes import call
from hpcdist.bench.record import Judgement
from hpcdist.bench.start import Place
from hpcdist.selection import Selection
from hpcdist.sweep.record import Record, read_json
from hpcdist.sweep.tune import MARGIN, times_of

LONGEST = 3600.0  # seconds after which a sweep is ended
NEAR = MARGIN  # times the best: what "auto" takes is as good


@dataclass(frozen=True)
class Sweep:
    """What a sweep measures: sizes from 8 B to `most` bytes, each algorithm for so many seconds, in segments."""

    most: int
    seconds: float
    segments: str = ""

    def flags(self) -> list[str]:
        """As the command line says it; few samples, since some algorithms are slow on purpose."""
        flags = ["--no-library", "--min-bytes", "8", "--max-bytes", str(self.most), "--step-factor", "4"]
        flags += ["--time-limit", str(self.seconds), "--warmup", "1"]
        return [*flags, "--segment-bytes", self.segments] if self.segments else flags


def tune(place: Place, peer: Peer, ranks: int, sweep: Sweep, table: Path) -> tuple[list[Record], str]:
    """Sweep on the ranks of a library, and write its table; returns (what was measured, what went wrong)."""
    return _sweep(place, peer, ranks, sweep, table.with_suffix(".sweep.json"), ["--tune", str(table)])


def again(place: Place, peer: Peer, ranks: int, sweep: Sweep, json: Path) -> tuple[list[Record], str]:
    """The same sweep once more, without a new table."""
    return _sweep(place, peer, ranks, sweep, json, [])


def _sweep(
    place: Place, peer: Peer, ranks: int, sweep: Sweep, json: Path, more: Sequence[str]
) -> tuple[list[Record], str]:
    program = [str(peer.python.with_name("hpcdist")), "sweep", *sweep.flags(), "--json", str(json), *more]
    why = call(place.ranks(peer, ranks, program), LONGEST)
    return ([], why) if why else (read_json(json)[1], "")


def judge(place: str, ranks: int, table: Path, records: Sequence[Record]) -> Judgement:
    """How well the model that was fitted by the sweep of a table foretold what it measured."""
    model = Selection.load(table).model
    return Judgement(place, ranks, model.as_dict() if model else {}, error(records))


def error(records: Sequence[Record]) -> float:
    """The median of |predicted - measured| / measured over all algorithms, sizes and segments."""
    return float(np.median([abs(r.predicted_us / r.times.time_us_p50 - 1) for r in records if r.predicted_us]))


def judge_again(judgement: Judgement, table: Path, records: Sequence[Record]) -> Judgement:
    """How what a table says did in a later sweep."""
    selection = Selection.load(table)
    behind = {nbytes: _behind(selection, nbytes, found) for nbytes, found in _by_size(records).items()}
    worse = {str(nbytes): ratio for nbytes, ratio in behind.items() if ratio > NEAR}
    return replace(judgement, near=1 - len(worse) / len(behind), worse=worse)


def _by_size(records: Sequence[Record]) -> dict[int, list[Record]]:
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        found[record.nbytes].append(record)
    return dict(found)


def _behind(selection: Selection, nbytes: int, records: Sequence[Record]) -> float:
    """Time of what the table says over that of the best, both placements together, as the table counts them."""
    some = records[0]
    choice = selection.choose(some.ranks, some.nodes, some.dtype, nbytes)
    times = times_of(records)
    placements = len({record.placement for record in records})
    taken = times[choice.algorithm, choice.segment_nbytes] if choice else float("inf")
    return (taken / min(times.values())) ** (1 / placements)
