"""Find the newest state that the nodes of this job still hold whole, and give it to all ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.checkpoint.host import Landing, writable
from hpcdist.checkpoint.layout import Manifest, Piece, piece_nbytes, step_of
from hpcdist.checkpoint.partner.contents import Bytes, raw, read
from hpcdist.checkpoint.partner.exchange import segments
from hpcdist.checkpoint.partner.memory import COPY, NodeMemory
from hpcdist.checkpoint.partner.placement import Place
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint
from hpcdist.errors import ArgumentError
from hpcdist.mpi.collective_errors import on_all, raise_together
from hpcdist.transport.mpi import MpiTransport

NAMED = 4  # shares that a message names


class Reader(NamedTuple):
    """The rank that has seen a share to be whole, and the file it has seen."""

    rank: int
    file: str


@dataclass(frozen=True)
class Recovery(Checkpoint):
    """A state of which every share was found whole, the same on all ranks; its arrays are still where they were.

    It lies at `path` on each node that has something of it, and the files of its manifest are the shares.

    Attributes:
        readers: Who reads each share.
    """

    readers: Mapping[str, Reader]

    @property
    def facts(self) -> dict[str, Any]:
        """Whatever else the writer wanted back."""
        return self.manifest.facts["facts"]


@dataclass(frozen=True)
class Seen:
    """A generation as one node has it: its manifest, or what is wrong with that, and the shares that lie there."""

    manifest: Manifest | None
    trouble: str | None
    files: list[str]


Listed = tuple[str | None, list[str]]  # what is wrong with a node's manifest, and the shares that lie there


class Search:
    """The search for the newest whole state, on all ranks at once; `notes` has what was found wrong on the way."""

    def __init__(self, transport: MpiTransport, place: Place, node: NodeMemory) -> None:
        self.transport, self.place, self.node = transport, place, node
        self.notes: list[str] = []
        self._seen: dict[str, Seen] = {}

    def newest(self) -> Recovery | None:
        """The newest state that is whole. Collective."""
        self._seen = on_all(self.transport.comm, self._look)
        mine = {name: (seen.trouble, seen.files) for name, seen in self._seen.items()}
        listed: list[dict[str, Listed]] = self.transport.exchange(mine, "list their partner copies")
        names = {name for each in listed for name in each}
        for name in sorted(names, key=lambda name: (step_of(name), name), reverse=True):
            recovery = self._examine(name, {rank: each[name] for rank, each in enumerate(listed) if name in each})
            if recovery:
                return recovery
        return None

    def _look(self) -> dict[str, Seen]:
        """What lies on this node, if this rank looks after it."""
        names = self.node.names() if self.place.leads else set()
        return {name: self._look_at(name) for name in names if not name.endswith(".tmp")}

    def _look_at(self, name: str) -> Seen:
        try:
            return Seen(self.node.look(name), None, self.node.files(name))
        except DamagedCheckpoint as error:
            return Seen(None, str(error), self.node.files(name))

    def _examine(self, name: str, listed: Mapping[int, Listed]) -> Recovery | None:
        """Collective: the state, if there is a manifest of it and a whole copy of every share."""
        self.notes += [trouble for trouble, _ in listed.values() if trouble]
        good = [rank for rank, (trouble, _) in listed.items() if trouble is None]
        if not good:
            return None
        own = self._seen.get(name)
        manifest: Manifest = self.transport.comm.bcast(own and own.manifest, good[0])
        present = {file.removesuffix(COPY) for _, files in listed.values() for file in files}
        if self._all_among(manifest, present):
            readers = self._check(name, manifest, listed)
            if self._all_among(manifest, readers):
                return Recovery(self.node.path / name, manifest, readers)
        return None

    def _all_among(self, manifest: Manifest, found: Container[str]) -> bool:
        """Whether all shares are among those found; if not, a note says which are missing."""
        missing = [share for share in manifest.files if share not in found]
        if missing:
            self.notes.append(_say_missing(manifest, missing))
        return not missing

    def _check(self, name: str, manifest: Manifest, listed: Mapping[int, Listed]) -> dict[str, Reader]:
        """Collective: read all copies, each by one rank of its node, and share out the good ones."""
        ranks = self.place.neighbours
        files = listed[ranks[0]][1] if ranks[0] in listed else []
        part = files[ranks.index(self.place.rank) :: len(ranks)]
        checked = on_all(self.transport.comm, lambda: self._check_files(name, manifest, part))
        everywhere = self.transport.exchange(checked, "check their partner copies")
        self.notes += [why for each in everywhere for why in each.values() if why]
        return share_out(manifest, everywhere)

    def _check_files(self, name: str, manifest: Manifest, files: Sequence[str]) -> dict[str, str | None]:
        """What is wrong with each file, None if nothing is."""
        sizes = {(name, piece): piece_nbytes(manifest.arrays[name], piece) for name, piece in _pieces(manifest)}
        scratch = np.empty(max(sizes.values(), default=0), np.uint8)
        found: dict[str, str | None] = {}
        for file in files:
            share = file.removesuffix(COPY)
            if share not in manifest.files:
                continue
            try:
                path = self.node.path / name / file
                read(path, manifest, share, lambda *which: scratch[: sizes[which]])
                found[file] = None
            except DamagedCheckpoint as error:
                found[file] = str(error)
        return found


def share_out(manifest: Manifest, everywhere: Sequence[Mapping[str, str | None]]) -> dict[str, Reader]:
    """Who reads which share: of those that have seen it whole, the one that reads least so far.

    Args:
        manifest: Of the state.
        everywhere: By rank, the files it has looked at and what is wrong with them.
    """
    whole: dict[str, list[Reader]] = defaultdict(list)
    for rank, each in enumerate(everywhere):
        for file, why in each.items():
            if why is None:
                whole[file.removesuffix(COPY)].append(Reader(rank, file))
    load = [0] * len(everywhere)
    readers = {}
    for share, nbytes in manifest.files.items():
        if whole[share]:
            readers[share] = min(whole[share], key=lambda reader: (load[reader.rank], reader))
            load[readers[share].rank] += nbytes
    return readers


def _say_missing(manifest: Manifest, missing: Sequence[str]) -> str:
    holders = manifest.facts["holders"]
    named = [
        f"{share}, which {' and '.join(f'rank {rank} on {host}' for rank, host in holders[share])} kept"
        for share in missing[:NAMED]
    ]
    more = f"; and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
    return (
        f"partner copies of step {manifest.step} (run {manifest.token}) cannot be used: no node of this job has a "
        f"whole copy of {len(missing)} of {len(manifest.files)} shares: {'; '.join(named)}{more}"
    )


def _pieces(manifest: Manifest) -> list[tuple[str, Piece]]:
    return [(name, piece) for name, entry in manifest.arrays.items() for piece in entry.pieces]


def restore(transport: MpiTransport, recovery: Recovery, into: Mapping[str, NDArray]) -> None:
    """Read every share once and give it to all ranks; see `PartnerCopies.restore`. Collective."""
    problems = transport.exchange((_problem_of(recovery, into), sorted(into)), "restore the same arrays")
    raise_together([problem for problem, _ in problems], ArgumentError)
    if any(names != problems[0][1] for _, names in problems):
        raise ArgumentError(f"the ranks do not restore the same arrays: {[names for _, names in problems]}")
    landing = Landing(into)
    on_all(transport.comm, lambda: _read_own(transport.rank, recovery, into, landing))
    for name, piece in _pieces(recovery.manifest):
        if name in into:
            for part in segments(raw(landing.memory(name, piece))):
                transport.comm.Bcast([part, MPI.BYTE], recovery.readers[piece.file].rank)
            landing.deliver(name, piece)


def _problem_of(recovery: Recovery, into: Mapping[str, NDArray]) -> str | None:
    for name, values in into.items():
        entry = recovery.manifest.arrays.get(name)
        if entry is None:
            return f"the partner copies have no array {name}; they have {', '.join(recovery.manifest.arrays)}"
        if (values.shape, values.dtype.str) != (entry.shape, entry.dtype):
            found = f"{values.dtype.str}{list(values.shape)}"
            return f"{name} is {entry.dtype}{list(entry.shape)} in the partner copies, and {found} here"
        if not writable(values):
            return f"{name} cannot be restored in place: it must be C-contiguous and writeable"
    return None


def _read_own(rank: int, recovery: Recovery, into: Container[str], landing: Landing) -> None:
    """Read the shares that are this rank's to read, right to their places."""
    manifest = recovery.manifest

    def memory_of(name: str, piece: Piece) -> Bytes | None:
        return raw(landing.memory(name, piece)) if name in into else None

    for share, reader in recovery.readers.items():
        if reader.rank == rank:
            read(recovery.path / reader.file, manifest, share, memory_of)
