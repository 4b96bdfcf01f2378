"""Keep the newest state in the memory of the nodes: save, find, restore, forget."""

from __future__ import annotations

import mmap
import shutil
import socket
import uuid
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import Manifest, Shapes, shapes_of
from hpcdist.checkpoint.part import Part, assemble
from hpcdist.checkpoint.partner import recovery as recovering
from hpcdist.checkpoint.partner.contents import Bytes, describe, fill, nbytes_of, share_name
from hpcdist.checkpoint.partner.exchange import exchange
from hpcdist.checkpoint.partner.memory import COPY, KEY, SHARED_MEMORY, TOKEN, NodeMemory, generation, reserve
from hpcdist.checkpoint.partner.placement import Place
from hpcdist.checkpoint.partner.recovery import Recovery, Search
from hpcdist.checkpoint.shares import Share, shares
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.mpi.collective_errors import agree, on_all, raise_together
from hpcdist.transport.mpi import MpiTransport
from hpcdist.util import typed_json

ALONE = "there is one rank, so its memory is the only copy: a restarted job finds it, but not after the node was lost"
ONE_NODE = (
    "all ranks are on one node, so both copies of a share are: a restarted job finds them, also if one is damaged, but "
    "not after the node was lost"
)


@dataclass(frozen=True)
class Order:
    """What is to be kept, the same on all ranks."""

    name: str
    step: int
    facts: dict[str, Any]
    shapes: Shapes
    shares: list[Share]

    def file(self, rank: int) -> str:
        """Name of the share of a rank."""
        return share_name(rank, len(self.shares))

    def nbytes(self, rank: int) -> int:
        """Bytes of it."""
        return nbytes_of(self.shares[rank], self.shapes)


class PartnerCopies:
    """Copies of a run's state in the memory of its nodes, each share on two of them. All methods are collective.

    Each rank keeps its share of the state, an equal part of the bytes, and that of a partner on another node. The state
    of one step is kept; while the next is written, both are. So of a state of n bytes on m alike nodes, each keeps
    2 n / m bytes, and 4 n / m while a save is under way.

    Args:
        comm: The ranks of the run. It is duplicated.
        key: Which run; only copies of the same key are found. See `key_of`.
        folder: In memory that each node has of its own, and that outlives the job.
        topology: The node of each rank; by default they are found.
        token: Of this start of the run, on rank 0, such as that of its `Fence`; by default a random one.

    Raises:
        ArgumentError: on all ranks, if an argument cannot be used.

    Attributes:
        note: What these copies do not guard against beyond the usual, or None.
        notes: What the last `newest` found wrong.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        key: str,
        folder: Path = SHARED_MEMORY,
        topology: Sequence[int] | None = None,
        token: str = "",
    ) -> None:
        self._transport = MpiTransport(comm)
        nodes = self._transport.topology if topology is None else tuple(topology)
        self.token: str = self._transport.from_rank_0(token or uuid.uuid4().hex[:12], "hear the run's token")
        self._agree_on_arguments(key, nodes)
        self._place = Place(comm.rank, nodes)
        self._node = NodeMemory(Path(folder), key)
        self._hosts = self._transport.exchange(socket.gethostname(), "say their hosts")
        self._old: set[str] | None = None  # what goes when the next state is whole; None until it is known
        self._useless: set[str] = set()  # what goes before
        self._step: int | None = None
        self.note = ALONE if comm.size == 1 else ONE_NODE if len(set(nodes)) == 1 else None
        self.notes: list[str] = []

    def _agree_on_arguments(self, key: str, nodes: tuple[int, ...]) -> None:
        problem, size = None, self._transport.size
        if not KEY.fullmatch(key):
            problem = f"a key of partner copies is of letters, digits, - and _, not {key!r}; key_of() makes one"
        if not TOKEN.fullmatch(self.token):
            problem = f"a token is of letters, digits, - and _, not {self.token!r}"
        if len(nodes) != size or not all(isinstance(node, int) for node in nodes):
            problem = f"the topology must be {size} node numbers, one per rank, not {nodes!r}"
        answers = self._transport.exchange((problem, (key, nodes)), "make partner copies")
        raise_together([answer[0] for answer in answers], ArgumentError)
        for rank, (_, given) in enumerate(answers):
            if given != answers[0][1]:
                raise ArgumentError(
                    f"rank {rank} gives other key or topology of partner copies than rank 0: {given}, {answers[0][1]}"
                )

    # --- save ---

    def save(self, step: int, arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> None:
        """Keep the state after `step` steps; when this returns, it is kept on all nodes, and the one before is gone.

        Args:
            step: Steps done, more than at the last save.
            arrays: Arrays by name, equal on all ranks.
            facts: Anything that JSON can hold; rank 0's are kept.

        Raises:
            ArgumentError: on all ranks, if the ranks do not save the same, or what cannot be saved.
            AgreedError: on all ranks, what went wrong on any, such as too little room; the state before is still kept.
        """
        order = self._agree_on(step, arrays, facts)
        files: dict[int, Bytes] = {}
        try:
            on_all(self._comm, lambda: self._begin(order))
            on_all(self._comm, lambda: self._reserve(order, files))
            on_all(self._comm, lambda: self._fill(order, files, arrays))
            manifest = self._exchange(order, files)
            on_all(self._comm, lambda: self._commit(order, manifest))
        except AgreedError:
            self._useless.add(order.name)  # where it was committed, as it was not everywhere
            if self._place.leads:
                shutil.rmtree(self._node.draft(order.name), ignore_errors=True)
            raise
        finally:
            files.clear()  # an exception that is kept would keep them, and their memory with them
        self._step = step
        on_all(self._comm, lambda: self._remove_old(order))

    @property
    def _comm(self) -> MPI.Intracomm:
        return self._transport.comm

    def _agree_on(self, step: int, arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> Order:
        problem = self._problem_of(step, arrays, facts)
        shapes = shapes_of(arrays) if problem is None else {}
        said = zlib.crc32(repr((step, list(shapes.items()))).encode())
        answers = self._transport.exchange((problem, said), "keep partner copies of the same arrays")
        raise_together([answer[0] for answer in answers], ArgumentError)
        other = next((rank for rank, answer in enumerate(answers) if answer[1] != answers[0][1]), None)
        if other is not None:
            raise ArgumentError(
                f"rank {other} keeps another step, or arrays of other names, shapes or dtypes, than rank 0"
            )
        facts = self._transport.from_rank_0(typed_json.exact(facts, "the facts"), "hear what rank 0 keeps")
        return Order(generation(step, self.token), step, facts, shapes, shares(shapes, self._transport.size))

    def _problem_of(self, step: int, arrays: Mapping[str, NDArray], facts: dict[str, Any]) -> str | None:
        if not isinstance(step, int) or step < 0:
            return f"step must be a number of steps done, not {step!r}"
        if self._step is not None and step <= self._step:
            return f"the state after step {self._step} is kept already; the next must be of a later one, not of {step}"
        wrong = [name for name, values in arrays.items() if values.dtype.hasobject]
        if wrong:
            return f"{', '.join(wrong)}: arrays of Python objects cannot be kept"
        try:
            typed_json.exact(facts, "the facts")
        except ValueError as error:
            return str(error)
        return None

    def _begin(self, order: Order) -> None:
        """Make room for a draft."""
        if not self._place.leads:
            return
        if self._old is None:
            self._old = self._node.names()
        self._node.remove(self._useless | {order.name})  # of its own name, if others could not commit it before
        self._useless = set()
        self._node.begin(order.name, self._needed(order))

    def _needed(self, order: Order) -> int:
        """Bytes of this node's files; each takes whole pages."""
        shares = [share for rank in self._place.neighbours for share in (rank, *self._place.kept(rank))]
        return sum(-(-order.nbytes(share) // mmap.PAGESIZE) * mmap.PAGESIZE for share in shares)

    def _reserve(self, order: Order, files: dict[int, Bytes]) -> None:
        """Make files for this rank's share and for those of others that are to come."""
        rank, draft = self._place.rank, self._node.draft(order.name)
        files[rank] = reserve(draft / order.file(rank), order.nbytes(rank))
        for other in self._place.kept(rank):
            files[other] = reserve(draft / (order.file(other) + COPY), order.nbytes(other))

    def _fill(self, order: Order, files: Mapping[int, Bytes], arrays: Mapping[str, NDArray]) -> None:
        """Copy this rank's share."""
        rank = self._place.rank
        fill(files[rank], arrays, order.shares[rank], order.shapes)

    def _exchange(self, order: Order, files: Mapping[int, Bytes]) -> Manifest:
        """Send and receive, and see that both copies of every share are equal; all ranks return the same."""
        rank = self._place.rank
        partner = self._place.partners[rank]
        outgoing = {partner: files[rank]} if partner != rank else {}
        trouble = exchange(self._transport, outgoing, {other: files[other] for other in files if other != rank})
        agree(self._comm, trouble is None, str(trouble))
        found = {other: describe(memory, order.file(other), order.shares[other], order.shapes)
                 for other, memory in files.items()}  # fmt: skip
        everywhere: list[dict[int, Part]] = self._transport.exchange(found, "compare their partner copies")
        for owner, partner in enumerate(self._place.partners):
            if everywhere[owner][owner] != everywhere[partner][owner]:
                raise AgreedError(f"what rank {owner} sent of its share is not what rank {partner} has received")
        parts = [each[owner] for owner, each in enumerate(everywhere)]
        facts = {"facts": order.facts, "holders": self._holders(order)}
        return assemble(order.step, self.token, facts, order.shapes, parts)

    def _holders(self, order: Order) -> dict[str, list[tuple[int, str]]]:
        """For people: who keeps each share."""
        pairs = enumerate(self._place.partners)
        return {order.file(own): [(rank, self._hosts[rank]) for rank in sorted({own, other})] for own, other in pairs}

    def _commit(self, order: Order, manifest: Manifest) -> None:
        if self._place.leads:
            self._old = (self._old or set()) | {order.name}  # if others cannot commit, it goes with the next
            self._node.commit(order.name, manifest)

    def _remove_old(self, order: Order) -> None:
        """Remove what was here before; never what another start of the run has put here since."""
        if self._place.leads:
            self._node.remove((self._old or set()) - {order.name})
            self._old = {order.name}

    # --- restore ---

    def newest(self) -> Recovery | None:
        """The newest state of which every share is whole on some node of this job; None if there is none.

        The ranks may be other than those that saved, in number and place. Whether the state is newer than the newest
        checkpoint on the file system, and so to be preferred, its `step` says. What was found damaged or missing is in
        `notes`. Nothing is changed; what is of no use goes with the first save.
        """
        search = Search(self._transport, self._place, self._node)
        found = search.newest()
        self.notes = search.notes
        if self._place.leads and self._old is None:
            self._useless = self._node.names() - ({generation(found.step, found.manifest.token)} if found else set())
        return found

    def restore(self, recovery: Recovery, into: Mapping[str, NDArray]) -> None:
        """Give the state to all ranks, bit by bit. After the loss of a node, save again, as some shares are single.

        Args:
            recovery: What `newest` has found.
            into: C-contiguous arrays of its shapes and dtypes, in host memory or on a device; those that are left out
                are not read.

        Raises:
            ArgumentError: on all ranks, if an array does not fit.
            AgreedError: on all ranks, if a share has been damaged since; `into` then holds rubbish.
        """
        recovering.restore(self._transport, recovery, into)

    # --- the end ---

    def forget(self) -> None:
        """Remove all copies of this key from the nodes of this job: when the run is complete, or is begun anew."""
        on_all(self._comm, lambda: self._node.forget() if self._place.leads else None)
        self._old, self._useless, self._step = None, set(), None

    def close(self) -> None:
        """Give the communicator back; the copies stay."""
        self._comm.Free()
