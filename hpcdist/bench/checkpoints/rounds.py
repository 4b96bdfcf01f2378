"""Samples of all ways at one size, round by round."""

from __future__ import annotations

import os
import shutil
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from mpi4py import MPI

from hpcdist.bench.checkpoints import cache, raw
from hpcdist.bench.checkpoints.peer import Torch
from hpcdist.bench.checkpoints.report import LEAST, RAW, SHARDS, TORCH, Load, Save
from hpcdist.bench.checkpoints.state import State
from hpcdist.bench.checkpoints.ways import Times, Way, writers
from hpcdist.bench.sampling import rounds, slowest, until
from hpcdist.checkpoint.fence import LOCK, OWNER
from hpcdist.checkpoint.reader import committed, look
from hpcdist.checkpoint.restoring import restore
from hpcdist.mpi.collective_errors import on_root
from hpcdist.util.sampling import Spread

RESTORED = (SHARDS, TORCH, RAW)  # ways of which a save is kept, to be restored


class Saves:
    """Samples of saving, in folders below `scratch`. All methods are collective."""

    def __init__(self, comm: MPI.Intracomm, state: State, ways: dict[str, Way], scratch: Path) -> None:
        self.comm, self.state, self.ways, self.scratch = comm, state, ways, scratch
        self.times: dict[str, list[Times]] = {}
        self.sizes: dict[str, tuple[int, int]] = {}

    def sample(self, most: int, seconds: float) -> None:
        """Take the samples, after a save by each way that is not counted: a run's first save takes new memory."""
        calls = {name: partial(self._once, name) for name in self.ways}
        rounds(calls, [0])
        self.times = rounds(calls, until(self.comm, LEAST, most, seconds))

    def _once(self, name: str) -> Times:
        folder = self._folder(name)
        self.state.change()
        self._prepare(name)
        self.state.on_each_node(lambda: cache.have_room(self.scratch, self.state.nbytes))
        times = self.ways[name](folder)
        times = Times(*slowest(self.comm, times.blocking, times.total))
        self.sizes[name] = on_root(self.comm, lambda: raw.size(folder))
        # At once, so that all find the same: memory and disk that were just freed are faster than new ones.
        on_root(self.comm, lambda: _empty(folder))
        return times

    def keep(self) -> None:
        """Save once more, for the restores."""
        for name in self.ways:
            if name in RESTORED:
                self._prepare(name)
                self.ways[name](self._folder(name))

    def _prepare(self, name: str) -> None:
        on_root(self.comm, lambda: _empty(self._folder(name)))

    def _folder(self, name: str) -> Path:
        return self.scratch / name.replace(" ", "-")

    def records(self) -> list[Save]:
        """The results."""
        count = writers(self.comm, self.state)
        limit = [times.total for times in self.times[RAW]]
        return [
            Save(
                ranks=self.comm.size,
                nbytes=self.state.nbytes,
                writers=count,
                way=name,
                rounds=len(times),
                blocking=Spread.of([each.blocking for each in times]),
                total=Spread.of([each.total for each in times]),
                share=Spread.paired(limit, [each.total for each in times]),
                writing=Spread.paired(limit, [each.total - each.blocking for each in times])
                if _behind(times)
                else None,
                files=self.sizes[name][0],
                written=self.sizes[name][1],
            )
            for name, times in self.times.items()
        ]


def _behind(times: list[Times]) -> bool:
    """Whether a way writes while its caller goes on."""
    return all(each.blocking < 0.9 * each.total for each in times)


def _empty(folder: Path) -> None:
    """Make the folder, or remove what was saved in it, with nothing left for the disk to do; a store keeps its own."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (OWNER, LOCK):
            path.unlink()
    os.sync()


class Loads:
    """Samples of restoring what `Saves` has kept, on the first `count` ranks. All methods are collective on all ranks.

    Attributes:
        wrong: Ways that brought back something else than was saved.
    """

    def __init__(self, comm: MPI.Intracomm, count: int, state: State, torch: Torch | None, scratch: Path) -> None:
        self.comm, self.count, self.state, self.torch, self.scratch = comm, count, state, torch, scratch
        self.seconds: dict[str, list[float]] = {}
        self.cached: dict[str, float] = defaultdict(float)
        self.wrong: set[str] = set()
        together = range(count) if comm.rank < count else range(count, comm.size)
        self._readers = comm.Create_group(comm.group.Incl(together))

    def sample(self, most: int, seconds: float) -> None:
        """Take the samples."""
        ways: dict[str, Callable[[Path], float]] = {SHARDS: self._ours, RAW: self._raw}
        if self.torch:
            ways[TORCH] = self._torch
        calls = {name: partial(self._once, name, way) for name, way in ways.items()}
        self.seconds = rounds(calls, until(self.comm, LEAST, most, seconds))
        self.wrong.update(*self.comm.allgather(self.wrong))

    def _once(self, name: str, way: Callable[[Path], float]) -> float:
        folder = self.scratch / name.replace(" ", "-")
        cache.drop(folder)  # on every node, and no harm if more than one rank does it
        self.comm.Barrier()
        self.cached[name] = max(self.cached[name], self.comm.allreduce(cache.cached(folder), MPI.MAX))
        (seconds,) = slowest(self.comm, way(folder))
        return seconds

    def _ours(self, folder: Path) -> float:
        if self.comm.rank >= self.count:
            return 0.0
        checkpoint = look(committed(folder)[-1])
        into = {name: np.ones_like(values, subok=False) for name, values in self.state.arrays.items()}
        self._readers.Barrier()
        began = time.perf_counter()
        restore(self._readers, checkpoint, into)
        seconds = time.perf_counter() - began
        if not all(np.array_equal(into[name], values) for name, values in self.state.arrays.items()):
            self.wrong.add(SHARDS)
        return seconds

    def _torch(self, folder: Path) -> float:
        assert self.torch
        answer = self.torch.ask({"do": "load", "path": str(folder), "ranks": self.count})
        if not answer["equal"]:
            self.wrong.add(TORCH)
        return answer["seconds"]

    def _raw(self, folder: Path) -> float:
        if self.comm.rank >= self.count:
            return 0.0
        buffer = memoryview(bytearray(raw.BLOCK))
        own = sorted(folder.iterdir())[self.comm.rank :: self.count]
        self._readers.Barrier()
        began = time.perf_counter()
        for path in own:
            raw.read(path, buffer)
        return time.perf_counter() - began

    def records(self) -> list[Load]:
        """The results."""
        return [
            Load(
                ranks=self.count,
                savers=self.comm.size,
                nbytes=self.state.nbytes,
                way=name,
                rounds=len(seconds),
                seconds=Spread.of(seconds),
                share=Spread.paired(self.seconds[RAW], seconds),
                cached=self.cached[name],
                wrong=name in self.wrong,
            )
            for name, seconds in self.seconds.items()
        ]

    def close(self) -> None:
        """Free the communicator."""
        self._readers.Free()
