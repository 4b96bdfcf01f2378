"""What the tables and figures tell of one size: the best library, where ours is best, and ratios of the two.

Where a result of what is asked about was wrong, in any round, the answer is `WRONG`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from hpcdist.bench.peers import MPIS, NAMES, NEW, OLD, OPEN_MPI
from hpcdist.bench.ratios import Side, best, link_bytes, medians, ratio, share
from hpcdist.bench.record import AGAIN, COMMITS, HERE, WRONG, Report, Row
from hpcdist.bench.task import AUTO, LIBRARY, RAW, addressed
from hpcdist.cluster.plan import parse_rate
from hpcdist.util.sampling import Spread

SLOWER = 1.05  # what the lower bound of new over old may be


@dataclass(frozen=True)
class Point:
    """All rows of one part, place, number of ranks and size."""

    rows: tuple[Row, ...]

    @property
    def nbytes(self) -> int:
        """Of the buffer."""
        return self.rows[0].nbytes

    @property
    def rounds(self) -> int:
        """Rounds that there is anything of."""
        return len({row.round for row in self.rows})

    def wrong(self, case: str, peer: str = "") -> bool:
        """Whether a case was wrong in any round; of the library's jobs, if one is named."""
        return any(row.wrong.get(case) for row in self.rows if peer in ("", row.peer))

    @cached_property
    def rival(self) -> Side | None:
        """The library that was the fastest."""
        return best(self.rows, LIBRARY)

    def home(self, case: str) -> Side | None:
        """The MPI that suits a case of ours best."""
        return best(self.rows, case)

    def beside_best(self, case: str) -> Spread | None:
        """Ours, where it is best, over the best library."""
        if self.wrong(case):
            return WRONG
        ours = self.home(case)
        return ratio(self.rows, ours, self.rival) if ours and self.rival else None

    def at_address(self, name: str) -> Spread | None:
        """Ours in the jobs of the best library at an address over that library, with the bounds of the median."""
        case, library = (addressed(each, name) for each in (AUTO, LIBRARY))
        if self.wrong(case):
            return WRONG
        rival = best(self.rows, library)
        return ratio(self.rows, Side(rival.peer, case), rival, Spread.bounded) if rival else None

    def worst_over_best(self, cases: Sequence[str]) -> Spread | None:
        """The slowest of some cases over the fastest, in the jobs of the MPI that suits the fastest best."""
        if any(self.wrong(case) for case in cases):
            return WRONG
        times = medians(self.rows, cases)
        if not times:
            return None
        fastest = min(times, key=times.__getitem__)
        slowest = max((side for side in times if side.peer == fastest.peer), key=times.__getitem__)
        return ratio(self.rows, slowest, fastest, Spread.bounded)

    def new_over_old(self, case: str) -> Spread | None:
        """Two commits of ours, with the bounds of the median."""
        if self.wrong(case):
            return WRONG
        return ratio(self.rows, Side(NEW, case), Side(OLD, case), Spread.bounded)

    @property
    def slower(self) -> list[str]:
        """Cases in which the new commit is slower than the old one, beyond doubt."""
        found = {case: self.new_over_old(case) for case in self.rows[0].us}
        return [case for case, spread in found.items() if spread and spread.low > SLOWER]

    def within(self, peer: str, case: str, other: str) -> Spread | None:
        """One case over another of the same library's jobs."""
        if self.wrong(case, peer) or self.wrong(other, peer):
            return WRONG
        return ratio(self.rows, Side(peer, case), Side(peer, other))

    def at_home(self, case: str, other: str) -> Spread | None:
        """One case over another, in the jobs of the MPI that suits the first best."""
        if self.wrong(case):
            return WRONG
        home = self.home(case)
        return self.within(home.peer, case, other) if home else None

    def us(self, side: Side) -> Spread | None:
        """Microseconds over rounds."""
        if self.wrong(side.case, side.peer):
            return WRONG
        values = [row.us[side.case] for row in self.rows if row.peer == side.peer and side.case in row.us]
        return Spread.of(values) if values else None

    def share(self, side: Side) -> Spread | None:
        """The part of the links' rate that a case makes use of, over rounds; on virtual hosts."""
        if self.wrong(side.case, side.peer):
            return WRONG
        rate = parse_rate(self.rows[0].place.partition(",")[0])
        values = [
            share(row.ranks, row.nbytes, row.us[side.case] * 1e-6, rate)
            for row in self.rows
            if row.peer == side.peer and side.case in row.us
        ]
        return Spread.of(values) if values else None

    def share_at_home(self, case: str) -> Spread | None:
        """The same of ours, where it is best."""
        if self.wrong(case):
            return WRONG
        home = self.home(case)
        return self.share(home) if home else None

    def cores(self, side: Side | None) -> float | None:
        """The part of all cores that was busy in a case's samples, the median over rounds."""
        if side is None:
            return None
        values = [row.cores[side.case] for row in self.rows if row.peer == side.peer and side.case in row.cores]
        return Spread.of(values).median if values else None

    def refill(self, side: Side | None) -> float | None:
        """What token buckets held again when samples began, as a part of what a link must carry; median over rounds."""
        if side is None:
            return None
        values = [row.refill[side.case] for row in self.rows if row.peer == side.peer and side.case in row.refill]
        return Spread.of(values).median / link_bytes(self.rows[0].ranks, self.nbytes) if values else None

    def over_predicted(self, peer: str, case: str) -> Spread | None:
        """The time of a case over what the price model foresees, over rounds; None where results were wrong."""
        if self.wrong(case, peer):
            return None
        rows = (row for row in self.rows if row.peer == peer and case in row.us and row.predicted.get(case))
        values = [row.us[case] / row.predicted[case] for row in rows]
        return Spread.of(values) if values else None

    def chosen(self, peer: str) -> str:
        """What "auto" took in a library's jobs."""
        return next((row.chosen for row in self.rows if row.peer == peer and row.chosen), "-")


@dataclass(frozen=True)
class Group:
    """All points of one part, place and number of ranks, by size."""

    part: str
    place: str
    ranks: int
    points: tuple[Point, ...]

    @property
    def libraries(self) -> list[str]:
        """Those that there is anything of, in the order of `peers.NAMES`."""
        found = {row.peer for point in self.points for row in point.rows}
        return [name for name in NAMES if name in found]

    @property
    def mpis(self) -> list[str]:
        """Those of them on which ours ran."""
        return [name for name in self.libraries if name in MPIS]

    @property
    def name(self) -> str:
        """For headings and files: "node-2", "network-200mbit-5"."""
        place = [] if self.place == HERE else self.place.replace(",", "").split()
        return "-".join([self.part, *place, str(self.ranks)])


def groups(rows: Sequence[Row], part: str) -> Iterator[Group]:
    """The groups of a part, in the order in which they were measured."""
    own = [row for row in rows if row.part == part]
    for place, ranks in dict.fromkeys((row.place, row.ranks) for row in own):
        there = [row for row in own if (row.place, row.ranks) == (place, ranks)]
        sizes = sorted({row.nbytes for row in there})
        points = (Point(tuple(row for row in there if row.nbytes == nbytes)) for nbytes in sizes)
        yield Group(part, place, ranks, tuple(points))


def slower(report: Report) -> bool:
    """Whether the new commit is slower anywhere; where it was measured once more, that counts."""
    every = [(group, p) for part in (COMMITS, AGAIN) for group in groups(report.rows, part) for p in group.points]
    return any({(group.place, group.ranks, p.nbytes): p.slower for group, p in every}.values())


LIMIT = Side(OPEN_MPI, RAW)
