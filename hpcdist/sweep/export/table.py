"""Which of a library's own algorithms is the fastest, by ranks and size: what all formats write down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean

from msgspec.structs import replace

from hpcdist.sweep import tune
from hpcdist.sweep.record import FIXED, LIBRARY, Record
from hpcdist.tuning.table import Bracket
from hpcdist.util.sizes import format_bytes

Table = dict[int, tuple[Bracket, ...]]  # by number of ranks; the algorithms by their names in a sweep, without FIXED
AUTO = "auto"  # the library's own choice
MEASURE = "hpcdist run -n 4 -- hpcdist sweep --library-algorithms --json sweep.json"


@dataclass(frozen=True)
class Format:
    """A kind of tuning file.

    Attributes:
        maker: whose sweeps can be written in it, as `Record.library` begins; "" for anybody's.
        algorithms: those it can name: their names in a sweep, and in the file.
        write: the file's text for a table; the path is that of a file to start from, or None.
        use: how to make the library read the file of that path, a line each.
        has_base: whether `write` looks at its path.
    """

    maker: str
    algorithms: Mapping[str, str | int]
    write: Callable[[Table, Path | None], str]
    use: Callable[[Path], Sequence[str]]
    has_base: bool = False


def table(records: Sequence[Record], form: Format, nodes: int | None = None) -> Table:
    """The fastest algorithm that a format can name, for each number of ranks and each size; types and operations alike.

    Args:
        records: of sweeps.
        form: the format.
        nodes: take only sweeps of so many nodes; None takes all.

    Raises:
        ValueError: if there is nothing to write, or a number of ranks was measured on several numbers of nodes.
    """
    fixed = named(records, form, nodes)
    counts = sorted({record.ranks for record in fixed})
    found: Table = {}
    for ranks in counts:
        here = [record for record in fixed if record.ranks == ranks]
        if len(several := sorted({record.nodes for record in here})) > 1:
            raise ValueError(
                f"{ranks} ranks were measured on {' and on '.join(map(str, several))} nodes, which no such file can "
                "tell apart; choose with --nodes"
            )
        brackets = tune.brackets(here, before=(FIXED + AUTO, None))
        found[ranks] = tuple(replace(each, algorithm=each.algorithm.removeprefix(FIXED)) for each in brackets)
    return found


def named(records: Sequence[Record], form: Format, nodes: int | None) -> list[Record]:
    """The records that count: of algorithms that were never wrong and that the format can name.

    Raises:
        ValueError: if there are none, saying why.
    """
    fixed = [record for record in tune.right(records) if record.algorithm.startswith(FIXED) and record.ranks > 1]
    if not fixed:
        raise ValueError(
            "no algorithm of the MPI library itself was measured on several ranks, and only such can stand in a "
            f"library's tuning file; measure them: {MEASURE}"
        )
    libraries = sorted({record.library for record in fixed})
    if not all(name.startswith(form.maker) for name in libraries):
        raise ValueError(f"this format is for {form.maker}, and the algorithms measured are those of {libraries}")
    known = [record for record in fixed if record.algorithm.removeprefix(FIXED) in form.algorithms]
    here = [record for record in known if nodes in (None, record.nodes)]
    if not here:
        names = ", ".join(sorted({record.algorithm for record in fixed}))
        where = f" on {nodes} nodes" if nodes else ""
        raise ValueError(f"this format can name none of what was measured{where}: {names}")
    return here


def spans(brackets: Sequence[Bracket]) -> Iterator[tuple[int, Bracket]]:
    """(the first size in bytes that it holds for, bracket)."""
    start = 0
    for bracket in brackets:
        yield start, bracket
        start = 0 if bracket.max_bytes is None else bracket.max_bytes + 1


def translated(brackets: Sequence[Bracket], names: Mapping[str, str | int]) -> list[tuple[int, int | None, str | int]]:
    """(first byte, last byte or None, name in the file); neighbours that come to share a name are one."""
    found: list[tuple[int, int | None, str | int]] = []
    for start, bracket in spans(brackets):
        name = names[bracket.algorithm]
        if found and found[-1][2] == name:
            found[-1] = (found[-1][0], bracket.max_bytes, name)
        else:
            found.append((start, bracket.max_bytes, name))
    return found


def summary(chosen: Table, records: Sequence[Record], nodes: int | None = None) -> list[str]:
    """A line per rule, with what it gains, or loses, beside the library's own choice where that was measured."""
    lines = []
    for ranks, brackets in chosen.items():
        here = [record for record in records if record.ranks == ranks and nodes in (None, record.nodes)]
        for low, bracket in spans(brackets):
            sizes = "any size" if bracket.max_bytes is None else f"up to {format_bytes(bracket.max_bytes)}"
            inside = [r for r in here if low <= r.nbytes <= bracket.bound]
            name = bracket.algorithm + (f"/{format_bytes(bracket.segment_nbytes)}" if bracket.segment_nbytes else "")
            lines.append(f"{ranks} ranks, {sizes}: {name}{_gain(inside, bracket)}")
    return lines


def _gain(records: Sequence[Record], bracket: Bracket) -> str:
    """How many times as fast as the library's own choice, at the worst and at the best size."""
    gains = []
    for nbytes in sorted({record.nbytes for record in records}):
        times = tune.times_of([record for record in records if record.nbytes == nbytes])
        ours, theirs = times.get((FIXED + bracket.algorithm, bracket.segment_nbytes)), times.get((LIBRARY, None))
        if ours and theirs:
            gains.append(theirs / ours)
    if not gains:
        return ""
    worst, best = min(gains), max(gains)
    warning = "; SLOWER somewhere than what the library does by itself" if worst < 1 / tune.MARGIN else ""
    return (
        f", {geometric_mean(gains):.2f} times as fast as the library's own choice ({worst:.2f} to {best:.2f}){warning}"
    )
