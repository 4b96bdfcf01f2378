"""Arrays in memory that the ranks of a node share: MPI's shared windows, and who refers to them.

To free a window is collective, while an array dies on each rank when its time has come. So a window outlives its array:
it is freed when next its communicator allocates, releases or is freed, once no rank refers to it. Whatever is still
referred to when the communicator is freed stays until the process ends.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import secrets
import socket
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.mpi.collective_errors import naming, raise_together
from hpcdist.mpi.quirks import without_ucx_complaint
from hpcdist.transport.mpi import MpiTransport
from hpcdist.util.cgroups import available_memory
from hpcdist.util.sizes import format_bytes

BACKING = "OMPI_MCA_osc_sm_backing_directory"
LINE = 128  # bytes of a flag: two cache lines, since processors fetch pairs of them
SLOTS = 512  # flags of a page
ADDED = 128  # bytes for each rank that Open MPI adds to a window at most, up to 800 ranks on a node
NOBODY = "no rank's result lies in an array of hpcdist.empty"
_POPULATE_WRITE = 23  # Linux 5.14: give the pages now, and say so if there are none, instead of SIGBUS at first use


class Place(NamedTuple):
    """Where in which allocation an array begins: the same on all ranks if they mean the same."""

    token: int
    offset: int  # bytes


class Window:
    """One collective allocation: a part of the same size for each rank of the node."""

    def __init__(self, home: Home, nbytes: int) -> None:
        self.home, self.nbytes, self.token = home, nbytes, -1
        with without_ucx_complaint():
            self.window = MPI.Win.Allocate_shared(nbytes, 1, comm=home.node)
        self.window.Lock_all(MPI.MODE_NOCHECK)  # an epoch, without which Sync would be an error
        self.sync = self.window.Sync
        self.user: weakref.ref[Memory] | None = None

    def part(self, index: int) -> NDArray[np.uint8]:
        """The bytes of the node's rank `index`. Keeps nothing alive: who uses it must hold the array."""
        memory: Any = self.window.Shared_query(index)[0]
        return np.frombuffer(memory, np.uint8)

    @property
    def used(self) -> bool:
        """Whether anything on this rank refers to its part."""
        return self.user is not None and self.user() is not None

    def free(self) -> None:
        """Collective on the node."""
        self.window.Unlock_all()
        self.window.Free()


class Memory:
    """This rank's part of a window, to which all its arrays lead back by their `base`."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.address = address_of(window.part(window.home.node.rank))
        window.user = weakref.ref(self)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"data": (self.address, False), "shape": (self.window.nbytes,), "typestr": "|u1", "version": 3}


class Home:
    """The shared memory of a communicator."""

    def __init__(self, transport: MpiTransport) -> None:
        self.transport, self.node = transport, transport.node
        self.group = transport.comm.Get_group()
        self.windows: list[Window] = []
        self._pages: list[NDArray[np.uint8]] = []  # of flags; each plan has one at its tag
        self._bounce_buffers: dict[int, NDArray[np.uint8]] = {}  # by their numbers

    def flag(self, tag: int) -> NDArray[np.uint8]:
        """Collective if no tag as high was asked for before: the cache line that holds this rank's flag of a plan."""
        page, slot = divmod(tag, SLOTS)
        while len(self._pages) <= page:
            fresh = self.allocate(SLOTS * LINE, f"a page of {SLOTS} flags")
            fresh.fill(0)
            self.node.Barrier()
            self._pages.append(fresh)
        return self._pages[page][slot * LINE : (slot + 1) * LINE]

    def bounce_buffers(self, wanted: Mapping[int, int]) -> list[NDArray[np.uint8]]:
        """This rank's bounce buffers of these numbers, of at least so many bytes; collective unless they are there.

        Each begins with zeros.
        """
        missing = {number: nbytes for number, nbytes in wanted.items() if not self._has(number, nbytes)}
        if missing:
            sizes = [_whole_pages(nbytes) for nbytes in missing.values()]
            memory, first = self.allocate(sum(sizes), "a bounce buffer", has_room=True), 0
            for number, nbytes in zip(missing, sizes, strict=True):
                self._bounce_buffers[number] = memory[first : first + nbytes]
                first += nbytes
        return [self._bounce_buffers[number] for number in wanted]

    def _has(self, number: int, nbytes: int) -> bool:
        return number in self._bounce_buffers and self._bounce_buffers[number].nbytes >= nbytes

    def forget_bounce_buffers(self, numbers: Iterable[int]) -> None:
        """Refer no longer to these, which nobody uses."""
        for number in numbers:
            self._bounce_buffers.pop(number, None)

    def no_bounce_buffers(self, wanted: Mapping[int, int]) -> str | None:
        """What this node lacks for bounce buffers of these numbers and sizes; its first rank says so, others None."""
        missing = sum(_whole_pages(nbytes) for number, nbytes in wanted.items() if not self._has(number, nbytes))
        return self._shortage(missing, "a bounce buffer") if missing else None

    def allocate(self, nbytes: int, what: str, has_room: bool = False) -> NDArray[np.uint8]:
        """Collective: `nbytes` zeros on every rank, the same number on all; `what` says for whom, in errors.

        Args:
            nbytes: on every rank.
            what: for whom, in errors.
            has_room: whether all ranks know already that there is room.

        Raises: AgreedError, on all ranks alike, if a node has no room.
        """
        if self.windows:
            self.collect()
        part = _whole_pages(nbytes)  # no page has two owners
        if not has_room:
            raise_together(self.transport.exchange(self._shortage(part, what), "look for room in shared memory"))
        window, memory = self._window(part, what)
        self.windows.append(window)
        return np.asarray(memory)[:nbytes]

    def _shortage(self, nbytes: int, what: str) -> str | None:
        """What is lacking for `nbytes` of every rank of the node; the first one looks."""
        return shortage(nbytes, self.node.size, directory(), what) if self.node.rank == 0 else None

    def _window(self, part: int, what: str) -> tuple[Window, Memory]:
        """Collective: a window of `part` bytes on each rank, or AgreedError on all."""
        window = memory = lacking = None
        try:
            window = Window(self, part)
            memory = Memory(window)
            if not _populate(memory):
                lacking = f"the room for {what} was taken by others at the same moment"
            else:
                np.asarray(memory)[: mmap.PAGESIZE].fill(0)
        except (MPI.Exception, OSError, MemoryError) as error:
            lacking = f"MPI made no shared memory for {what}: {type(error).__name__}: {error}"
        answers = self.transport.exchange((lacking, secrets.randbits(62)), "have their memory")
        problems = [answer[0] for answer in answers]
        if any(problems) and self.node.allreduce(window is not None, MPI.LAND) and window:
            window.free()
        raise_together(problems)
        window.token = answers[0][1]  # type: ignore[union-attr]  # it is None only where there is a problem
        return window, memory  # type: ignore[return-value]

    def collect(self) -> int:
        """Collective on the node: free the windows that no rank refers to; returns how many bytes of this rank's."""
        used = np.array([window.used for window in self.windows], np.int8)
        self.node.Allreduce(MPI.IN_PLACE, used, MPI.MAX)
        gone = [window for window, by_any in zip(self.windows, used, strict=True) if not by_any]
        self.windows = [window for window, by_any in zip(self.windows, used, strict=True) if by_any]
        for window in gone:
            window.free()
        if gone:
            self.node.Barrier()  # there is room again only when the last rank has let go
        return sum(window.nbytes for window in gone)

    def free(self) -> None:
        """Collective on the node, as the communicator is freed."""
        self._pages.clear()
        self._bounce_buffers.clear()
        self.collect()
        self.group.Free()

    def position(self, transport: MpiTransport) -> list[tuple[int, int]] | None:
        """(node, index in the node) of every rank of another transport; None if one has no part of this memory."""
        group = transport.comm.Get_group()
        ranks = group.Translate_ranks(list(range(transport.size)), self.group)
        group.Free()
        if MPI.UNDEFINED in ranks:
            return None
        nodes = self.transport.topology
        return [(nodes[rank], nodes[:rank].count(nodes[rank])) for rank in ranks]


def home_of(transport: MpiTransport) -> Home:
    """Collective the first time: the shared memory of a communicator."""
    if transport.home is None:
        transport.home = Home(transport)
    return transport.home


def memory_of(array: Any) -> Memory | None:
    """The shared memory in which an array lies, or None."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array if isinstance(array, Memory) else None


def place_of(array: Any) -> Place | None:
    """Where in which allocation an array begins, or None if it lies elsewhere."""
    memory = memory_of(array)
    if memory is None:
        return None
    return Place(memory.window.token, address_of(array) - memory.address)


def views(transport: MpiTransport, array: NDArray, ranks: Sequence[int]) -> list[NDArray]:
    """The arrays of some ranks of this node that lie where `array` lies on this rank, flat; they keep nothing alive.

    Raises: ValueError if it lies in no shared memory, or not all ranks have a part of it.
    """
    memory, place = memory_of(array), place_of(array)
    positions = memory.window.home.position(transport) if memory else None
    if memory is None or place is None or positions is None:
        raise ValueError("the array is not in memory that these ranks share")
    parts = [memory.window.part(positions[rank][1]) for rank in ranks]
    return [part[place.offset : place.offset + array.nbytes].view(array.dtype) for part in parts]


def obstacle(
    transport: MpiTransport, array: NDArray, places: Sequence[Place | None], topology: Sequence[int]
) -> str | None:
    """Why the ranks cannot work in each other's arrays, or None if they can; the same on all ranks.

    Args:
        transport: the ranks.
        array: this rank's array.
        places: where each rank's begins.
        topology: the node of each rank, as the algorithm takes it.
    """
    without = [rank for rank, place in enumerate(places) if place is None]
    if len(without) == len(places):
        return NOBODY
    if without:
        return f"the result of {naming(without)} does not lie in an array of hpcdist.empty, as those of others do"
    if len({place.token for place in places if place}) > 1:
        return "the ranks' results lie in arrays of different calls of hpcdist.empty"
    offsets = {place.offset: rank for rank, place in reversed(list(enumerate(places))) if place}
    if len(offsets) > 1:
        said = ", ".join(
            f"rank {rank} at byte {offset}" for offset, rank in sorted(offsets.items(), key=lambda o: o[1])
        )
        return f"the ranks' results begin at different bytes of their arrays ({said})"
    memory = memory_of(array)
    positions = memory.window.home.position(transport) if memory else None
    if positions is None:
        return "some ranks of the communicator have no part of the array"
    hosts: dict[int, set[int]] = {}
    for node, (host, _) in zip(topology, positions, strict=True):
        hosts.setdefault(node, set()).add(host)
    if any(len(found) > 1 for found in hosts.values()):
        return "the topology puts ranks on one node that share no memory"
    return None


# --- how much there is ---


def _whole_pages(nbytes: int) -> int:
    return -(-max(1, nbytes) // mmap.PAGESIZE) * mmap.PAGESIZE


def directory() -> Path:
    """Where the MPI library keeps shared windows: Open MPI can be told, MPICH takes /dev/shm."""
    return Path(os.environ.get(BACKING, "/dev/shm"))


def free_memory(where: Path) -> tuple[int, int]:
    """(bytes free in a folder, bytes of memory available on this host); a folder that is missing limits nothing."""
    available = available_memory()
    if not where.is_dir():
        return available, available
    stat = os.statvfs(where)
    return stat.f_bavail * stat.f_frsize, available


def needed_for(part: int, ranks: int) -> int:
    """Bytes that must be free for `ranks` parts of `part` bytes.

    Open MPI adds a page and some bytes for each rank, and refuses unless a twentieth more is free. It tells only the
    node's first rank, while the others wait for ever: so it must not come to that.
    """
    asked = (part + ADDED) * ranks + mmap.PAGESIZE
    return asked + -(-asked // 20) + mmap.PAGESIZE


def shortage(part: int, ranks: int, where: Path, what: str) -> str | None:
    """What is lacking for `ranks` parts of `part` bytes, in words; who writes where there is no room gets SIGBUS."""
    free, available = free_memory(where)
    needed = needed_for(part, ranks)
    if needed <= min(free, available):
        return None
    found = f"{where} has {format_bytes(free)} free" if free <= available else f"{format_bytes(available)} is available"
    return (
        f"{what} takes {format_bytes(part)} for each of {ranks} ranks on {socket.gethostname()}, together and with "
        f"what MPI adds {format_bytes(needed)} of shared memory, but {found}. Start fewer ranks per node, make room "
        f"(mount -o remount,size=90% {where}; in a container: docker run --shm-size=8g), or do without shared memory"
    )


def _populate(memory: Memory) -> bool:
    """Have the pages of this rank's part made now, near its core; whether there was room."""
    libc = ctypes.CDLL(None, use_errno=True)
    address, length = ctypes.c_void_p(memory.address), ctypes.c_size_t(memory.window.nbytes)
    if libc.madvise(address, length, _POPULATE_WRITE) == 0:
        return True
    if ctypes.get_errno() != 22:  # EINVAL: an older kernel, which leaves us the check made before
        return False
    np.asarray(memory).fill(0)
    return True
