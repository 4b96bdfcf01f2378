"""MPICH's selection of algorithms, JSON for the variable MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE.

A tree of conditions, each a key, with an algorithm at each leaf. MPICH has no other choice beside the file: a
collective or a case that is not in it ends the program. So the file is the library's own table, in which only
all-reduces of the numbers of ranks that were measured are replaced. The table is a text inside of the library itself,
which need not be installed anywhere else.

The variables by which algorithms can be forced fall back to others where an algorithm does not fit; a file is taken
at its word. So what fits only sometimes stands under a condition, with the library's own choice beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcdist.sweep.export.table import AUTO, Format, Table
from hpcdist.tuning.table import Bracket

Tree = dict[str, Any]

_NAMES = (
    "smp", "recursive_doubling", "recursive_multiplying", "reduce_scatter_allgather", "tree", "recexch", "ring",
    "k_reduce_scatter_allgather",
)  # fmt: skip
ALGORITHMS = {AUTO: "", "nb": "MPIR_Allreduce_allcomm_nb"} | {name: f"MPIR_Allreduce_intra_{name}" for name in _NAMES}

# Their parameters, as the library's variables for them have them by default, with which a sweep runs.
PARAMETERS = {
    "recursive_multiplying": ("k=2",),
    "tree": ("tree_type=knomial_1", "k=2", "chunk_size=0", "buffer_per_child=0"),
    "recexch": ("k=2", "single_phase_recv=0"),
    "k_reduce_scatter_allgather": ("k=2", "single_phase_recv=0"),
}
# Where an algorithm does not fit, and the opposite.
UNFIT = {
    "reduce_scatter_allgather": ("count<pow2", "count=any"),
    "k_reduce_scatter_allgather": ("count<pow2", "count=any"),
    "smp": ("comm_hierarchy=flat", "comm_hierarchy=parent"),
}
TABLE = re.compile(rb'\{"collective=[^\0]*algorithm=MPIR_Allreduce_[^\0]*')


def write(table: Table, base: Path | None = None) -> str:
    """The file's text.

    Args:
        table: what to put into it.
        base: the library's own table, or another file to start from; None looks into the library that mpi4py loads.

    Raises:
        ValueError: if there is no such table.
    """
    document = _read(base) if base else _builtin()
    try:
        kinds = document["collective=allreduce"]
        own = kinds["comm_type=intra"]
    except (KeyError, TypeError):
        where = base or "the table inside of the MPI library"
        raise ValueError(f'{where} has no "collective=allreduce" with a "comm_type=intra"') from None
    kinds["comm_type=intra"] = _by_ranks(table, own)
    return json.dumps(document, indent=1) + "\n"


def _by_ranks(table: Table, own: Tree) -> Tree:
    """The first condition that is met holds: fewer ranks than measured, as many, more."""
    tree: Tree = {}
    for ranks, brackets in sorted(table.items()):
        tree[f"comm_size<{ranks}"] = own
        tree[f"comm_size<={ranks}"] = {"is_op_built_in=yes": _by_size(brackets, own), "is_op_built_in=no": own}
    return tree | {"comm_size=any": own}


def _by_size(brackets: Sequence[Bracket], own: Tree) -> Tree:
    sizes = ("any" if b.max_bytes is None else b.max_bytes for b in brackets)
    conditions = (f"avg_msg_size={size}" if size == "any" else f"avg_msg_size<={size}" for size in sizes)
    return {condition: _leaf(b.algorithm, own) for condition, b in zip(conditions, brackets, strict=True)}


def _leaf(algorithm: str, own: Tree) -> Tree:
    if algorithm == AUTO:
        return own
    leaf: Tree = {f"algorithm={ALGORITHMS[algorithm]}": {text: {} for text in PARAMETERS.get(algorithm, ())}}
    if algorithm not in UNFIT:
        return leaf
    unfit, fit = UNFIT[algorithm]
    return {unfit: own, fit: leaf}


def _read(path: Path) -> Tree:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: no JSON ({error})") from None


def _builtin() -> Tree:
    """The table inside of the library that mpi4py loads; MPI is not started.

    Raises:
        ValueError: if there is none, as in other libraries than MPICH.
    """
    import mpi4py  # here, as only this needs the library

    mpi4py.rc.initialize = False
    from mpi4py import MPI  # noqa: F401 - loads the library

    from hpcdist.mpi.library import libraries

    for path in libraries():
        found = TABLE.search(Path(path).read_bytes())
        if found:
            return json.loads(found.group())
    raise ValueError(
        f"no table of MPICH in {', '.join(libraries()) or 'any library loaded'}; run this where mpi4py loads the MPICH "
        "that was measured, or give its table with --base (src/mpi/coll/coll_selection.json in its source)"
    )


def use(path: Path) -> list[str]:
    """Variables to set; the second keeps away what the device would do instead."""
    return [
        f"export MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE={path.resolve()}",
        "export MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE=0",
    ]


FORMAT = Format("MPICH", ALGORITHMS, write, use, has_base=True)
