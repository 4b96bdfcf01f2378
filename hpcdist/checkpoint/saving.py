"""One checkpoint on its way to the disk, seen from one rank: in a thread of its own, so that the run can go on.

A writer announces its part by a small file in the draft; when rank 0 has seen those of all writers, it commits. The
thread makes no MPI call, since not every MPI allows that beside the run's own.
"""

from __future__ import annotations

import itertools
import math
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.fence import Fence, FencedOut
from hpcdist.checkpoint.index import write_index
from hpcdist.checkpoint.layout import STATE, Shapes
from hpcdist.checkpoint.part import Part, assemble, write_part
from hpcdist.checkpoint.shares import Share, Writer
from hpcdist.checkpoint.unchanged import Previous
from hpcdist.checkpoint.writer import commit, prune
from hpcdist.util import typed_json
from hpcdist.util.atomic_files import write_text

LOOK_FIRST, LOOK_EVERY = 0.001, 0.02  # seconds between two looks for the announcements of others, doubled each time
FENCE_EVERY = 50  # looks


@dataclass(frozen=True)
class Order:
    """What is to be saved, as all ranks know it."""

    fence: Fence
    draft: Path
    step: int
    facts: dict[str, Any]
    shapes: Shapes
    writers: Sequence[Writer]
    keep: int
    compression: str = "none"
    began: float = field(default_factory=time.perf_counter)

    def writer(self, rank: int) -> Writer | None:
        """What a rank writes, if it does."""
        return next((each for each in self.writers if each.rank == rank), None)

    def share(self, rank: int) -> Share:
        """Which rows a rank writes."""
        writer = self.writer(rank)
        return writer.share if writer else {}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in self.shapes.values())


def conclude(order: Order, parts: Sequence[Part]) -> Path:
    """Commit the checkpoint that is made of these parts and remove old ones. On rank 0; returns its directory."""
    manifest = assemble(order.step, order.fence.token, order.facts, order.shapes, parts)
    if STATE not in manifest.files:
        manifest.files[STATE] = write_index(order.draft, manifest.arrays)
    path = commit(order.fence, order.draft, manifest)
    prune(order.fence, order.keep)
    return path


class Saving:
    """This rank's side of a save: its part, if it is a writer, and the commit, if it is rank 0.

    Attributes:
        part: What this rank wrote, when it has.
        trouble: What went wrong here, if anything has so far.
    """

    def __init__(self, order: Order, rank: int, previous: Previous | None = None) -> None:
        self.order, self.rank, self.previous = order, rank, previous
        self.part: Part | None = None
        self.trouble: Exception | None = None
        self._path: Path | None = None
        self._ended = time.perf_counter()
        self._written, self._cancelled = threading.Event(), threading.Event()
        # A daemon, as a run that ends by an error is not to wait for a checkpoint; what it leaves is a draft.
        self._thread = threading.Thread(target=self._run, name="hpcdist checkpoint", daemon=True)
        self._rows: Mapping[str, NDArray] = {}

    def start(self, rows: Mapping[str, NDArray]) -> None:
        """Begin to write these rows, which are this rank's share and must not change until it is done."""
        self._rows = rows
        self._thread.start()

    def _run(self) -> None:
        try:
            own = self._write()
            self._written.set()
            if self.rank == 0:
                self._path = conclude(self.order, [*own, *self._others()])
        except Cancelled:
            pass
        except Exception as error:
            self.trouble = self._reason(error)
        finally:
            self._ended = time.perf_counter()
            self._written.set()

    def _write(self) -> list[Part]:
        """Write this rank's part, if it has one, and announce it to rank 0."""
        order, writer = self.order, self.order.writer(self.rank)
        if writer is None:
            return []
        self.part = write_part(order.draft, writer.file, self._rows, writer.share, order.compression, self.previous)
        if self._cancelled.is_set():
            raise Cancelled
        if self.rank != 0:
            write_text(announcement(order.draft, self.rank), msgspec.json.encode(self.part).decode(), parents=False)
        return [self.part]

    def _others(self) -> Iterator[Part]:
        """The parts of the other writers, waited for."""
        for writer in self.order.writers:
            if writer.rank != 0:
                path = announcement(self.order.draft, writer.rank)
                for look in itertools.count(1):
                    if path.exists():
                        break
                    if self._cancelled.wait(min(LOOK_EVERY, LOOK_FIRST * 2 ** min(look, 10))):
                        raise Cancelled
                    if look % FENCE_EVERY == 0:
                        with self.order.fence.held():  # a run that takes the directory removes what we wait for
                            pass
                yield typed_json.decode(path.read_bytes(), Part, str(path))
                path.unlink()

    def _reason(self, error: Exception) -> Exception:
        """Why something went wrong: if another run has taken the directory, it is that."""
        try:
            with self.order.fence.held():
                return error
        except FencedOut as fenced:
            return fenced
        except Exception:
            return error

    def wait_written(self) -> None:
        """Wait until this rank's part is written, or has failed."""
        self._written.wait()

    def check(self) -> None:
        """Raise what kept this rank's part from being written."""
        if self.trouble:
            raise self.trouble

    def outcome(self) -> tuple[Path, float]:
        """On rank 0, when all parts are known to be written: the committed checkpoint, and the seconds until it was.

        Raises:
            Exception: whatever kept it from being committed.
        """
        self._thread.join()
        if self.trouble or not self._path:
            raise self.trouble or RuntimeError("nothing was committed")
        return self._path, self._ended - self.order.began

    def cancel(self) -> None:
        """See that nothing is committed that is not yet: rows are about to change, or other parts will not come."""
        self._cancelled.set()

    def abandon(self) -> None:
        """On rank 0: wait no longer for parts that will not come, and remove the draft."""
        self.cancel()
        if self._thread.ident is not None:  # it was started
            self._thread.join()
        shutil.rmtree(self.order.draft, ignore_errors=True)


class Cancelled(Exception):
    """This is not to be committed."""


def announcement(draft: Path, rank: int) -> Path:
    """The file by which a writer says that its part is done."""
    return draft / f"part-{rank:04d}.json"
