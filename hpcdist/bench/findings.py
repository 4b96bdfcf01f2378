"""What the ranks of a job find: rank 0 writes it anew after each size, as a part of a report."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from mpi4py import MPI

from hpcdist.bench.saved import Part, builtins
from hpcdist.errors import AgreedError
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import agree
from hpcdist.mpi.world import run_on_world, topology_of
from hpcdist.util import atomic_files, typed_json
from hpcdist.util.sizes import format_bytes

P = TypeVar("P", bound=Part)


class Findings(Generic[P]):
    """A part in the making; all methods are collective.

    Args:
        comm: The ranks.
        out: Where rank 0 writes; nowhere if None.
        part: To which results are added.
        accelerator: This rank's device, if it has one.
    """

    def __init__(self, comm: MPI.Intracomm, out: Path | None, part: P, accelerator: Any = None) -> None:
        self.comm, self.out, self.part, self.accelerator = comm, out, part, accelerator
        self.topology = topology_of(comm)
        part.machine.update(machine.describe(comm, self.topology, accelerator))

    def sizes(self, sizes: Sequence[int], measure: Callable[[int, int], Iterable[Any]]) -> None:
        """Add the rows that `measure` makes of each size in bytes, told how many sizes are left, and write them."""
        for number, nbytes in enumerate(sizes):
            try:
                self.part.rows += measure(nbytes, len(sizes) - number)
            except AgreedError as error:  # such as no room
                self.miss(nbytes, f"left out: {error}")
            self.write()

    def miss(self, nbytes: int, what: str) -> None:
        """Note what was left out of a size."""
        self.part.missing.append(f"{format_bytes(nbytes)} {what}")

    def write(self) -> None:
        """Write all of it."""
        if self.comm.rank == 0 and self.out:
            atomic_files.write_text(self.out, typed_json.text(builtins(self.part), None))


def main(work: Callable[..., None], part: type[Part], accelerator: Any = None, no_device: str | None = None) -> None:
    """What every rank runs, as `python -m MODULE TASK`: the work that the file says, with what it says.

    Args:
        work: Called with the findings and what was asked for.
        part: Of which kind they are.
        accelerator: This rank's device, if it has one.
        no_device: Why it has none, if it should.
    """
    asked = json.loads(Path(sys.argv[1]).read_text())
    out = Path(asked.pop("out"))

    def on_ranks(comm: MPI.Intracomm) -> int:
        agree(comm, no_device is None, f"nothing was measured: {no_device}")
        work(Findings(comm, out, part(), accelerator), **asked)
        return 0

    run_on_world(on_ranks)
