"""The state that is saved: arrays of random bits, equal on all ranks, and once in the memory of each node."""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.bench.checkpoints.report import ARRAYS, UNIT
from hpcdist.checkpoint.unchanged import HEAD

MEMORY = Path("/dev/shm")  # where files are memory
PAGE = mmap.PAGESIZE // 8  # elements


class State:
    """Arrays of int64, named 00 to 15, shared by the ranks of a node, and with other programs by `folder`. Collective.

    Nothing compresses random bits, and integers that differ in any bit are unequal.

    Args:
        comm: The ranks.
        nbytes: Size of all arrays together, a multiple of UNIT.
    """

    def __init__(self, comm: MPI.Intracomm, nbytes: int) -> None:
        self.nbytes = nbytes
        self._node = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.folder = Path(self._node.bcast(_fill(nbytes) if self._node.rank == 0 else None))
        self.arrays: dict[str, NDArray] = {
            path.name: np.asarray(np.memmap(path, np.int64, "r+")) for path in sorted(self.folder.iterdir())
        }
        for values in self.arrays.values():
            values[::PAGE].sum()  # or whoever comes first would pay for finding the memory

    def change(self) -> None:
        """Change each array all over, as a step of training does, so that nothing is found unchanged. Collective."""
        self.on_each_node(self._change)

    def _change(self) -> None:
        for values in self.arrays.values():
            values[:: HEAD // values.itemsize] += 1

    def on_each_node(self, do: Callable[[], object]) -> None:
        """Let one rank of each node do something, while the others wait. Collective."""
        self._node.Barrier()
        if self._node.rank == 0:
            do()
        self._node.Barrier()

    def forget_names(self) -> None:
        """Remove the folder; the memory lasts as long as processes that have it. Collective."""
        self._node.Barrier()
        if self._node.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> State:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.arrays = {}
        if error is None:  # it is collective, and an exception may be this rank's alone
            self._node.Free()


def _fill(nbytes: int) -> str:
    """Write the arrays; returns their folder."""
    folder = Path(tempfile.mkdtemp(prefix="hpcdist-state-", dir=MEMORY))
    generator = np.random.default_rng(0)
    for number in range(ARRAYS):
        values = generator.integers(-(2**63), 2**63 - 1, nbytes // UNIT, dtype=np.int64)
        values.tofile(folder / f"{number:02d}")
    return str(folder)
