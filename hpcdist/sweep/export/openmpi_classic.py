"""Open MPI's dynamic rules, the text that all releases read.

Numbers, with comments after a #: of collectives; then for each its number, 2 for MPI_Allreduce, and of communicator
sizes; for each that size and how many rules; a rule is the first size in bytes it holds for, the algorithm, a fan-out
and a segment. A rule for a communicator size holds up to the next one that is given, and so does one for a size.
Algorithm 0 is the library's own choice, with which sizes that nobody measured are kept free.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcdist.sweep.export.table import AUTO, Format, Table, spans
from hpcdist.tuning.table import Bracket

ALLREDUCE = 2
ALGORITHMS = {
    AUTO: 0,
    "basic_linear": 1,
    "nonoverlapping": 2,
    "recursive_doubling": 3,
    "ring": 4,
    "segmented_ring": 5,
    "rabenseifner": 6,
    "allgather_reduce": 7,
}
OWN_CHOICE = (Bracket(None, AUTO),)


def write(table: Table, base: Path | None = None) -> str:
    """The file's text."""
    rules = _fenced(table)
    lines = ["1  # collective", f"{ALLREDUCE}  # MPI_Allreduce", f"{len(rules)}  # communicator sizes"]
    for ranks, brackets in rules.items():
        lines += [f"{ranks}  # ranks and more", f"{len(brackets)}  # rules", *_lines(brackets)]
    return "\n".join(lines) + "\n"


def _fenced(table: Table) -> Table:
    """The table with the library's own choice below, between and above the numbers of ranks."""
    rules: Table = {0: OWN_CHOICE}
    for ranks, brackets in sorted(table.items()):
        rules[ranks] = brackets
        rules[ranks + 1] = OWN_CHOICE  # until the next overwrites it
    return rules


def _lines(brackets: Sequence[Bracket]) -> Iterator[str]:
    for start, bracket in spans(brackets):
        segment = bracket.segment_nbytes or 0
        yield f"{start} {ALGORITHMS[bracket.algorithm]} 0 {segment}  # from {start} bytes: {bracket.algorithm}"


def use(path: Path) -> list[str]:
    """Variables to set; the priority lets the rules speak on several nodes, too, where "han" would go before them."""
    return [
        "export OMPI_MCA_coll_tuned_use_dynamic_rules=1",
        f"export OMPI_MCA_coll_tuned_dynamic_rules_filename={path.resolve()}",
        "export OMPI_MCA_coll_tuned_priority=100",
    ]


FORMAT = Format("Open MPI", ALGORITHMS, write, use)
