"""Open MPI's dynamic rules in JSON, which 6.0 reads and newer; 5.0 reads the classic text only.

The first rule that matches holds. Where none does the library chooses by itself, so its own choice is left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hpcdist.sweep.export import openmpi_classic
from hpcdist.sweep.export.table import AUTO, Format, Table, spans
from hpcdist.tuning.table import Bracket

VERSION = 3


def write(table: Table, base: Path | None = None) -> str:
    """The file's text."""
    rules = [
        {"comm_size_min": ranks, "comm_size_max": ranks, "rules": list(_rules(brackets))}
        for ranks, brackets in sorted(table.items())
    ]
    document = {"rule_file_version": VERSION, "module": "tuned", "collectives": {"allreduce": rules}}
    return json.dumps(document, indent=1) + "\n"


def _rules(brackets: Sequence[Bracket]) -> Iterator[dict[str, Any]]:
    for start, bracket in spans(brackets):
        last = "inf" if bracket.max_bytes is None else bracket.max_bytes
        if bracket.algorithm != AUTO:
            rule = {"msg_size_min": start, "msg_size_max": last, "alg": bracket.algorithm}
            yield rule | ({"seg_size": bracket.segment_nbytes} if bracket.segment_nbytes else {})


FORMAT = Format("Open MPI", openmpi_classic.ALGORITHMS, write, openmpi_classic.use)
