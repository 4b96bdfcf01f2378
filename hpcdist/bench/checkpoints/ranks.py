"""What the ranks do: each size is saved in all ways, then restored."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from time import monotonic

from hpcdist.bench import findings
from hpcdist.bench.checkpoints import room
from hpcdist.bench.checkpoints.peer import Torch
from hpcdist.bench.checkpoints.report import UNIT, Load, Part, Save
from hpcdist.bench.checkpoints.rounds import Loads, Saves
from hpcdist.bench.checkpoints.state import State
from hpcdist.bench.checkpoints.ways import Way, ways
from hpcdist.bench.findings import Findings
from hpcdist.doctor.mounts import mount_of
from hpcdist.mpi.collective_errors import on_root

WARM_UP = 1 << 20  # bytes
SAVING = 0.7  # of the time goes into saves, the rest into restores


def work(
    found: Findings[Part], sizes: Sequence[int], rounds: int, seconds: float, scratch: str, torch: str | None
) -> None:
    """All sizes, after one that is not counted."""
    comm = found.comm
    size = Size(found, rounds, Path(comm.bcast(scratch)), Path(torch) if torch else None)
    found.part.machine["file_system"] = mount_of(size.scratch).kind
    for _ in size.measure(WARM_UP // UNIT * UNIT, 0):
        pass
    end = monotonic() + seconds
    found.sizes(sizes, lambda nbytes, left: size.measure(nbytes, comm.bcast(max(0.0, end - monotonic())) / left))


class Size:
    """What is done at each size. Collective.

    Args:
        found: Where what is left out is noted.
        rounds: At most.
        scratch: Folder for files.
        python: One that has torch, if there is any.
    """

    def __init__(self, found: Findings[Part], rounds: int, scratch: Path, python: Path | None) -> None:
        self.found, self.comm = found, found.comm
        self.rounds, self.scratch, self.python = rounds, scratch, python

    def measure(self, nbytes: int, seconds: float) -> Iterator[Save | Load]:
        """Take samples for about so many seconds, or say why not."""
        if lacking := room.lacking(self.comm, nbytes, self.scratch):
            self.found.miss(nbytes, f"left out: {lacking}")
            return
        with State(self.comm, nbytes) as state, self._torch(state) as torch:
            state.forget_names()
            if torch:
                self.found.part.machine["versions"]["torch"] = torch.version
            with ways(self.comm, state, torch) as found:
                saves = Saves(self.comm, state, self._fitting(nbytes, found), self.scratch)
                saves.sample(self.rounds, SAVING * seconds)
                saves.keep()
                yield from saves.records()
            for count in sorted({self.comm.size, max(1, self.comm.size // 2)}, reverse=True):
                yield from self._load(count, state, torch, (1 - SAVING) * seconds / 2)
        on_root(self.comm, self._clear)

    def _clear(self) -> None:
        for path in self.scratch.iterdir():
            if path.is_dir():
                shutil.rmtree(path)

    def _torch(self, state: State) -> Torch | nullcontext[None]:
        return Torch(self.comm, self.python, state.folder) if self.python else nullcontext()

    def _fitting(self, nbytes: int, found: dict[str, Way]) -> dict[str, Way]:
        why = {name: room.too_large(self.comm, nbytes, room.COPIES.get(name, (0, 0))) for name in found}
        for name in filter(why.__getitem__, why):
            self.found.miss(nbytes, f"{name} left out: it {why[name]}")
        return {name: way for name, way in found.items() if not why[name]}

    def _load(self, count: int, state: State, torch: Torch | None, seconds: float) -> list[Load]:
        if why := room.too_large(self.comm, state.nbytes, room.RESTORED):
            self.found.miss(state.nbytes, f"restoring on {count} ranks left out: it {why}")
            return []
        loads = Loads(self.comm, count, state, torch, self.scratch)
        loads.sample(self.rounds, seconds)
        loads.close()
        return loads.records()


if __name__ == "__main__":
    findings.main(work, Part)
