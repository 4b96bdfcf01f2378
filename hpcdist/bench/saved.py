"""Reports that are kept as JSON and read back with a check of all their fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec
import numpy as np

from hpcdist.util import atomic_files, typed_json
from hpcdist.util.display import Progress
from hpcdist.util.sizes import format_bytes

if TYPE_CHECKING:
    from mpi4py import MPI


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result."""


class Saved(msgspec.Struct, forbid_unknown_fields=True, tag_field="version", tag=1):
    """What is kept in a file of its own, with the version of its form."""

    def write_json(self, path: Path, **more: Any) -> None:
        """Write all of it, and what it comes to; the file is whole or absent."""
        document = {**msgspec.to_builtins(self, enc_hook=np.generic.item), **more}
        atomic_files.write_text(path, typed_json.text(document))

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write_json` wrote.

        Raises: OSError if it cannot be read; ValueError if it is something else.
        """
        return typed_json.decode(path.read_bytes(), cls, str(path))


class Report(Saved):
    """All results of one run, growing as they come."""

    command: Sequence[str]
    start_time: str
    config: dict[str, Any]
    machine: dict[str, Any] = msgspec.field(default_factory=dict)


def measure_sizes(
    comm: MPI.Intracomm, sizes: Sequence[int], report: Saved, path: Path | None, measure: Callable[[int, int], object]
) -> None:
    """Call `measure` with each size in bytes and the number of sizes left; rank 0 writes the report after each."""
    with Progress(comm.rank, len(sizes)) as progress:
        for number, nbytes in enumerate(sizes):
            progress.show(number, f"{comm.size} ranks, {format_bytes(nbytes)}")
            measure(nbytes, len(sizes) - number)
            if comm.rank == 0 and path:
                report.write_json(path)
