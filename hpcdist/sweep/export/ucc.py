"""UCC's tuning string, for its layer over UCX, as a line of ucc.conf or of a shell.

UCC has two of the families of algorithms that Open MPI and MPICH have, so this carries over the size at which one
takes over from the other. How fast UCC's own are nobody has measured: try it before you rely on it.
"""

from __future__ import annotations

from pathlib import Path

from hpcdist.sweep.export.table import Format, Table, translated

ALGORITHMS = {
    "recursive_doubling": "knomial",
    "recursive_multiplying": "knomial",
    "recexch": "knomial",
    "rabenseifner": "sra_knomial",
    "reduce_scatter_allgather": "sra_knomial",
    "k_reduce_scatter_allgather": "sra_knomial",
}


def write(table: Table, base: Path | None = None) -> str:
    """The file's text: one line, UCC_TL_UCP_TUNE=token#token..., each coll:sizes:memory:[ranks]:@algorithm."""
    tokens = [
        f"allreduce:{max(0, low - 1)}-{'inf' if high is None else high}:host:[{ranks}-{ranks}]:@{name}"
        for ranks, brackets in sorted(table.items())
        for low, high, name in translated(brackets, ALGORITHMS)
    ]
    return f"UCC_TL_UCP_TUNE={'#'.join(tokens)}\n"


def use(path: Path) -> list[str]:
    """Lines for a shell, of an Open MPI with UCC."""
    return [
        "# UCC itself was not measured: compare before you rely on it",
        f'export "$(cat {path.resolve()})"',
        "export OMPI_MCA_coll_ucc_enable=1 OMPI_MCA_coll_ucc_priority=100",
    ]


FORMAT = Format("", ALGORITHMS, write, use)
