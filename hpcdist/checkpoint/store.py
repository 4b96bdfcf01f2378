"""A run's view of its checkpoint directory: take it, find the newest, restore, save in the background, keep a few."""

from __future__ import annotations

import shutil
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.checkpoint.collective import shares_of, unavailable, write_collective
from hpcdist.checkpoint.fence import Fence
from hpcdist.checkpoint.host import Snapshot, in_host
from hpcdist.checkpoint.layout import COMPRESSIONS, LAYOUTS, STATE, Shapes, shapes_of
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, check, look, newest
from hpcdist.checkpoint.restoring import restore
from hpcdist.checkpoint.saving import Order, Saving, conclude
from hpcdist.checkpoint.shares import PER_NODE, Writer, own_rows, spread, writers_of
from hpcdist.checkpoint.unchanged import Previous
from hpcdist.checkpoint.writer import begin, claim, set_aside
from hpcdist.device import accelerator_of
from hpcdist.errors import AgreedError
from hpcdist.mpi.collective_errors import on_all, on_root
from hpcdist.mpi.world import sleeping_barrier, topology_of
from hpcdist.util import typed_json

STORABLE = "biufc"  # kinds of dtypes that every HDF5 library knows


@dataclass(frozen=True)
class Timing:
    """What a save took: bytes of the state, seconds for which the caller was held up, seconds until the commit."""

    nbytes: int
    blocking: float
    total: float


class Store:
    """The checkpoints of one run; making one fences out every earlier run. All methods are collective.

    Args:
        comm: The ranks of the run. It is duplicated.
        directory: Made if it is missing; on a file system that all ranks see.
        keep: How many committed checkpoints to keep, at least 1.
        layout: "shards", a file for each of several writers and an index; "single", one file by one writer;
            "collective", one file by all ranks through parallel HDF5, in the foreground.
        writers: How many ranks write shards; 0 for up to 4 on a node, with at least 4 MiB each.
        background: Whether `save` returns as soon as the state is copied.
        compression: "none" or "gzip".
        incremental: Whether a writer most of whose pieces are as they were in the checkpoint before links to them.
        fence: The claim on the directory, if it was made before.

    Raises:
        AgreedError: on all ranks, if an argument or the directory cannot be used.

    Attributes:
        last: What the last finished save took.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        directory: Path,
        keep: int = 3,
        *,
        layout: str = "shards",
        writers: int = 0,
        background: bool = True,
        compression: str = "none",
        incremental: bool = True,
        fence: Fence | None = None,
    ) -> None:
        on_all(comm, lambda: check_arguments(keep, layout, writers, comm.size, compression))
        _agree_on(comm, "makes another store", (str(directory), keep, layout, writers, background, compression))
        self.fence: Fence = fence or on_root(comm, lambda: claim(directory))
        self.comm = comm.Dup()
        self.directory, self.keep, self.layout, self.compression = directory, keep, layout, compression
        self.background, self.incremental = background, incremental
        self.writers = 1 if layout == "single" else writers
        self.last: Timing | None = None
        self._ranks = spread(topology_of(self.comm), PER_NODE if not writers else comm.size)
        self._saving: Saving | None = None
        self._snapshot = Snapshot()
        self._previous: Previous | None = None
        self._shapes: Shapes = {}
        self._blocking = 0.0

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:  # closing is collective, and an exception may be this rank's alone
            self.close()

    # --- reading ---

    def newest(self) -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
        """The newest checkpoint that looks whole, and the damaged ones that were newer, which are set aside."""

        def find() -> tuple[Checkpoint | None, list[DamagedCheckpoint]]:
            checkpoint, damaged = newest(self.directory)
            for error in damaged:
                set_aside(self.fence, error.path)
            return checkpoint, damaged

        return on_root(self.comm, find)

    def restore(self, checkpoint: Checkpoint, into: Mapping[str, NDArray]) -> None:
        """Read a checkpoint into arrays on all ranks; see `restoring.restore`."""
        restore(self.comm, checkpoint, into)

    def put_aside(self, damaged: DamagedCheckpoint) -> None:
        """Rename a checkpoint that turned out to be damaged; it is not deleted.

        Raises:
            AgreedError: rank 0 finds it whole, so that the trouble is with another rank's node; it keeps its name.
        """

        def confirm() -> None:
            try:
                check(look(damaged.path))
            except DamagedCheckpoint:
                set_aside(self.fence, damaged.path)
            else:
                raise OSError(f"{damaged}; but rank 0 reads it whole, so look at that node and its file systems")

        on_root(self.comm, confirm)

    # --- writing ---

    def save(self, step: int, arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> None:
        """Save the state after `step` steps; then checkpoints that are no longer kept are removed.

        When this returns, the arrays may be changed: in the background, the checkpoint is written from a copy, and
        committed by rank 0 as soon as all parts are there. A save that finds the one before unfinished waits for it.

        Args:
            step: Steps done; there must be no checkpoint of this step.
            arrays: Arrays by name, equal on all ranks; in host memory, or contiguous on a device.
            facts: Anything that JSON can hold; rank 0's are saved.

        Raises:
            AgreedError: on all ranks, what went wrong on any, in this save or in the one before: another run has
                taken the directory, it cannot be written, the ranks do not save the same arrays.
        """
        self.wait()
        began = time.perf_counter()
        on_all(self.comm, lambda: _check_dtypes(arrays))
        shapes = shapes_of(arrays)
        _agree_on(self.comm, "saves another step, or arrays of other names, shapes or dtypes,", (step, shapes))
        facts, draft = on_root(self.comm, lambda: (typed_json.exact(facts, "the facts"), begin(self.fence, step)))
        if together := self.layout == "collective":
            writers = [Writer(rank, STATE, share) for rank, share in enumerate(shares_of(arrays, self.comm.size))]
        else:
            writers = writers_of(arrays, self._ranks, self.writers)
        order = Order(self.fence, draft, step, facts, shapes, writers, self.keep, self.compression, began)
        try:
            (self._write_together if together else self._start_writing)(order, arrays)
        except AgreedError:
            saving = self._saving
            self._give_up()
            if self.comm.rank == 0:
                (saving.abandon if saving else partial(shutil.rmtree, draft, ignore_errors=True))()
            raise
        except BaseException:
            self._give_up()
            raise
        self._blocking = time.perf_counter() - began
        if not self.background:
            self.wait()

    def _give_up(self) -> None:
        """Leave the save under way, such as one that Ctrl-C interrupts, to its thread, which will not commit it.

        Arrays, and their copies, may now change while it writes.
        """
        if self._saving:
            self._saving.cancel()
        self._saving = None

    def _start_writing(self, order: Order, arrays: Mapping[str, NDArray]) -> None:
        """Have this rank's rows written beside the caller; copies, unless it waits and they are in host memory."""
        own = own_rows(arrays, order.share(self.comm.rank))
        copied = self.background or any(map(accelerator_of, own.values()))
        rows = on_all(self.comm, lambda: (self._snapshot.take if copied else _contiguous)(own))
        comparable = self._previous if order.shapes == self._shapes else None
        saving = self._saving = Saving(order, self.comm.rank, comparable)
        on_all(self.comm, lambda: saving.start(rows))

    def _write_together(self, order: Order, arrays: Mapping[str, NDArray]) -> None:
        """Write and commit now, as parallel HDF5 needs all ranks at once."""
        arrays = on_all(self.comm, lambda: {name: in_host(values) for name, values in arrays.items()})
        part = write_collective(order.draft / STATE, self.comm, arrays, order.share(self.comm.rank))
        parts = self.comm.gather(part)
        on_root(self.comm, lambda: conclude(order, parts or []))
        seconds = time.perf_counter() - order.began
        self.last = Timing(order.nbytes, seconds, seconds)

    @property
    def failed(self) -> bool:
        """Whether the save under way has failed on this rank; the next `save` or `wait` then raises why, on all."""
        return bool(self._saving and self._saving.trouble)

    def wait(self) -> Path | None:
        """Wait until the save under way is committed; returns its directory, None if none is under way.

        Raises:
            AgreedError: on all ranks, what went wrong on any.
        """
        if self._saving is None:
            return None
        saving, began = self._saving, time.perf_counter()
        try:
            saving.wait_written()
            sleeping_barrier(self.comm)
            on_all(self.comm, saving.check)
            path, total = on_root(self.comm, saving.outcome)
        except AgreedError:
            self._saving = None
            if self.comm.rank == 0:
                saving.abandon()
            raise
        except BaseException:
            self._give_up()
            raise
        self._saving = None
        part = saving.part if self.incremental else None
        self._previous = Previous(path, part.pieces, part.files, part.heads) if part else None
        self._shapes = saving.order.shapes
        self.last = Timing(saving.order.nbytes, self._blocking + time.perf_counter() - began, total)
        return path

    def close(self) -> None:
        """Wait for the save under way, and give the communicator back."""
        self.wait()
        self.comm.Free()


def check_arguments(keep: int, layout: str, writers: int, size: int, compression: str) -> None:
    """See that a store can be made on `size` ranks.

    Raises:
        ValueError: it cannot.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}: the newest checkpoint is never removed")
    if layout not in LAYOUTS:
        raise ValueError(f"there is no checkpoint layout {layout!r}; choose from {', '.join(LAYOUTS)}")
    if not 0 <= writers <= size:
        raise ValueError(f"{writers} of {size} ranks cannot write; give 0 to have it chosen, or 1 to {size}")
    if compression not in COMPRESSIONS:
        raise ValueError(f"there is no compression {compression!r}; choose from {', '.join(COMPRESSIONS)}")
    if layout == "collective" and compression != "none":
        raise ValueError(f"the collective layout cannot compress: {compression!r} asks for what is not done")
    if layout == "collective" and (why := unavailable()):
        raise ValueError(f"the collective layout cannot be used: {why}")


def _contiguous(rows: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
    return {name: np.asarray(values, order="C") for name, values in rows.items()}


def _check_dtypes(arrays: Mapping[str, NDArray]) -> None:
    for name, values in arrays.items():
        if values.dtype.kind not in STORABLE:
            raise TypeError(
                f"{name} is of dtype {values.dtype}, which HDF5 does not know; save it as another, for example "
                "bfloat16 as a view of uint16"
            )


def _agree_on(comm: MPI.Intracomm, what: str, said: Any) -> None:
    """See that all ranks say the same."""
    numbers = comm.allgather(zlib.crc32(repr(said).encode()))
    other = next((rank for rank, number in enumerate(numbers) if number != numbers[0]), None)
    if other is not None:
        raise AgreedError(f"rank {other} {what} than rank 0")
