"""The ways to save a state: ours, the simple one, torch's, and plain files as the limit of all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
from mpi4py import MPI

from hpcdist.bench.checkpoints import raw
from hpcdist.bench.checkpoints.peer import Torch
from hpcdist.bench.checkpoints.report import BACKGROUND, COLLECTIVE, PLAIN, RAW, SHARDS, SINGLE, TORCH, TORCH_ASYNC
from hpcdist.bench.checkpoints.state import State
from hpcdist.checkpoint.shares import PER_NODE, spread, writers_of
from hpcdist.checkpoint.store import Store
from hpcdist.mpi.world import topology_of
from hpcdist.util.atomic_files import fsync


@dataclass(frozen=True)
class Times:
    """Seconds of a save on this rank: until it may change its arrays again, and until all is durable."""

    blocking: float
    total: float


Way = Callable[[Path], Times]  # saves into an empty folder; collective


def writers(comm: MPI.Intracomm, state: State) -> int:
    """How many shards ours writes."""
    return len(writers_of(state.arrays, spread(topology_of(comm), PER_NODE), 0))


@contextmanager
def ways(comm: MPI.Intracomm, state: State, torch: Torch | None) -> Iterator[dict[str, Way]]:
    """All ways that can be had here, by name. Collective."""
    with ExitStack() as stack:
        yield _ways(comm, state, torch, lambda **how: stack.enter_context(Ours(comm, state, **how)))


def _ways(comm: MPI.Intracomm, state: State, torch: Torch | None, ours: Callable[..., Way]) -> dict[str, Way]:
    found: dict[str, Way] = {
        BACKGROUND: ours(layout="shards", background=True),
        SHARDS: ours(layout="shards", background=False),
        SINGLE: ours(layout="single", background=False),
    }
    if h5py.get_config().mpi:
        found[COLLECTIVE] = ours(layout="collective", background=False)
    found[PLAIN] = lambda folder: timed(comm, lambda: _dump(state, folder / "state.h5") if comm.rank == 0 else None)
    if torch:
        found[TORCH] = lambda folder: Times(**torch.ask({"do": "save", "path": str(folder)}))
        found[TORCH_ASYNC] = lambda folder: Times(**torch.ask({"do": "save_in_background", "path": str(folder)}))
    found[RAW] = lambda folder: _raw(comm, state, folder)
    return found


class Ours:
    """A run's store, which is used for one save after the other, and is made at the first. All methods are collective.

    Args:
        comm: The ranks.
        state: What is saved.
        how: Further arguments of the store.
    """

    def __init__(self, comm: MPI.Intracomm, state: State, **how: Any) -> None:
        self.comm, self.state, self.how = comm, state, how
        self.store: Store | None = None
        self.step = 0

    def __call__(self, folder: Path) -> Times:
        """Save into the folder, which is always the same."""
        self.store = store = self.store or Store(self.comm, folder, **self.how)
        self.step += 1
        return timed(self.comm, lambda: store.save(self.step, self.state.arrays, {}), store.wait)

    def __enter__(self) -> Ours:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.store and error is None:  # closing is collective, and an exception may be this rank's alone
            self.store.close()


def _dump(state: State, path: Path) -> None:
    with h5py.File(path, "w") as file:
        for name, values in state.arrays.items():
            file[name] = values
    fsync(path)


def _raw(comm: MPI.Intracomm, state: State, folder: Path) -> Times:
    parts = writers(comm, state)
    ranks = spread(topology_of(comm), PER_NODE)[:parts]
    path = folder / f"{comm.rank:04d}"

    def save() -> None:
        if comm.rank in ranks:
            raw.write(path, state.arrays, ranks.index(comm.rank), parts)

    return timed(comm, save)


def timed(comm: MPI.Intracomm, save: Callable[[], object], finish: Callable[[], object] = lambda: None) -> Times:
    """Call both in turn, begun by all ranks together. Collective."""
    comm.Barrier()
    began = time.perf_counter()
    save()
    blocking = time.perf_counter() - began
    finish()
    return Times(blocking, time.perf_counter() - began)
