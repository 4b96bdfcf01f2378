"""Messages by MPI: persistent point-to-point requests on a private duplicate of the user's communicator."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.mpi.quirks import eager_limit, own_limit, told_to_yield
from hpcdist.mpi.world import abort_on_error, leader_of, node_of, numbered
from hpcdist.transport import Library, Native, TransferError
from hpcdist.util import watchdog

LARGEST_COUNT = 2**31 - 1  # a C int, which counts are in the calls of compiled code

watchdog.WATCHDOG.abort = lambda: MPI.COMM_WORLD.Abort(70)


give_mpi_a_turn: Callable[[], object] = MPI.COMM_SELF.Iprobe  # others may wait for a message of this rank's


class MpiTransport:
    """The ranks of one communicator. Set-up talk is pickled and collective; data moves as raw bytes."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        abort_on_error()
        self.comm = comm.Dup()
        self.rank, self.size = comm.rank, comm.size
        self.node = node_of(self.comm)
        limit = own_limit() if self.node.size < self.size else 0
        self.compiled: bool | None = None  # whether all ranks have compiled code, once they were asked
        told = self.exchange((leader_of(self.comm, self.node), os.sched_getaffinity(0), limit), "say where they are")
        leaders, cores, limits = zip(*told, strict=True)
        self.topology = numbered(leaders)
        self.sent_at_once = eager_limit(limits) if self.node.size < self.size else None
        here = [core for core, leader in zip(cores, leaders, strict=True) if leader == leaders[self.rank]]
        self.crowded = self.node.size > len(set().union(*here)) or told_to_yield()  # ranks of this node share cores
        # of one-line calls: the check before each, what all ranks agreed on, and this rank's plans at a glance
        self.same_call: Any = None
        self.cache: dict[Any, Any] = {}
        self.seen: dict[Any, Any] = {}
        self.calls = 0  # so far
        self.plans: weakref.WeakSet[Any] = weakref.WeakSet()  # of this rank, that were not closed
        self.home: Any = None  # the memory that ranks of a node share, once it is asked for
        self.free_tags: list[int] = []
        self.dropped: set[int] = set()  # tags of plans that nobody refers to any more on this rank
        self._next_tag = 0
        highest = int(MPI.COMM_WORLD.Get_attr(MPI.TAG_UB) or 32767)  # Open MPI knows it there only
        self._last_tag = highest // 2  # those above are for answers

    def send(self, memory: NDArray, peer: int, tag: int) -> _Send:
        """Bind a send; of device memory, where MPI can read that."""
        native = None
        if isinstance(memory, np.ndarray):
            message = (address_of(memory), memory.nbytes, MPI.BYTE, peer, tag, self.comm)
            native = _native(MPI.Request(), memory.nbytes, message)
        return _Send(self.comm.Send_init(_bytes_of(memory), peer, tag), native)

    def receive(self, memory: NDArray, peer: int, tag: int) -> _Receive:
        """Bind a receive."""
        return _Receive(self.comm.Recv_init(_bytes_of(memory), peer, tag), memory.nbytes, peer)

    def exchange(self, item: Any, what: str) -> list[Any]:
        """Collective: everybody's item, by rank; `what` tells the watchdog what is waited for."""
        with watchdog.waiting(f"rank {self.rank} of {self.size} waits for all ranks to {what}"):
            return self.comm.allgather(item)

    def from_rank_0(self, item: Any, what: str) -> Any:
        """Collective: what rank 0 has."""
        with watchdog.waiting(f"rank {self.rank} of {self.size} waits to {what}"):
            return self.comm.bcast(item)

    @property
    def freed(self) -> bool:
        """Whether the user has freed the communicator."""
        return self.comm == MPI.COMM_NULL

    def take_tag(self) -> int:
        """Collective by being called in the same order everywhere: a tag that no open plan uses.

        Raises: RuntimeError when the MPI library has no more.
        """
        if self.free_tags:
            return self.free_tags.pop()
        self._next_tag += 1
        if self._next_tag > self._last_tag:
            raise RuntimeError(
                f"{self._last_tag} plans are open on one communicator, all this MPI has tags for. Close some with "
                "plan.close()."
            )
        return self._next_tag

    @property
    def coming_tag(self) -> int:
        """The tag that will be taken next."""
        return self.free_tags[-1] if self.free_tags else self._next_tag + 1

    def return_tag(self, tag: int) -> None:
        """Give a tag back, after all ranks have closed the plan."""
        self.free_tags.append(tag)

    def take_back(self, dropped: Sequence[Collection[int]]) -> None:
        """Collective by being told the same everywhere: the tags of plans that each rank has dropped."""
        by_all = set(self.dropped).intersection(*dropped)
        self.dropped -= by_all
        self.free_tags[:0] = sorted(by_all)  # not the next to be taken, which may be promised already
        if self.home is not None:
            self.home.forget_bounce_buffers(by_all)

    def answering(self, tag: int) -> int:
        """The tag of answers to the messages of a plan."""
        return self._last_tag + tag


class _Send:
    """A persistent send; its methods are the request's own, to save a call.

    Compiled code sends anew each time: Open MPI completes a short persistent send only when the receiver has
    answered, 0.1 to 0.5 us later.
    """

    def __init__(self, request: MPI.Prequest, native: Native | None) -> None:
        self.native = native
        self.start: Callable[[], None] = request.Start
        self.wait: Callable[[], object] = request.Wait
        self.test: Callable[[], bool] = request.Test
        self.free: Callable[[], None] = request.Free


class _Receive:
    """A persistent receive that compares what came with what was due; too long a message is an error of MPI's own."""

    def __init__(self, request: MPI.Prequest, nbytes: int, peer: int) -> None:
        self.native = _native(request, nbytes)
        self.start: Callable[[], None] = request.Start
        self.free: Callable[[], None] = request.Free
        status = MPI.Status()
        count, byte = status.Get_count, MPI.BYTE

        def check() -> None:
            if count(byte) != nbytes:
                raise TransferError.of(count(byte), nbytes, peer)

        def wait() -> None:
            request.Wait(status)
            if count(byte) != nbytes:
                check()

        def test() -> bool:
            done = request.Test(status)
            if done:
                check()
            return done

        self.wait: Callable[[], object] = wait
        self.test: Callable[[], bool] = test


@cache
def _library() -> Library | None:
    """The library that mpi4py has loaded; None if its functions cannot be reached by name, or are another's."""
    loaded = ctypes.CDLL(MPI.__file__)  # names are looked for in what it was linked with
    said, length = ctypes.create_string_buffer(MPI.MAX_LIBRARY_VERSION_STRING), ctypes.c_int()
    try:
        loaded.MPI_Get_library_version(said, ctypes.byref(length))
        functions = (loaded.MPI_Isend, loaded.MPI_Start, loaded.MPI_Test, loaded.MPI_Get_count)
    except AttributeError:
        return None
    if said.value.decode() != MPI.Get_library_version().rstrip("\0"):
        return None
    isend, start, test, get_count = (ctypes.cast(function, ctypes.c_void_p).value or 0 for function in functions)
    numbers = _handle(MPI.BYTE), MPI._sizeof(MPI.Status)
    return Library(isend, start, test, get_count, *numbers, told_to_yield(), MPI.Exception)


def _native(request: MPI.Request, nbytes: int, message: tuple[Any, ...] = ()) -> Native | None:
    library = _library()
    if library is None or nbytes > LARGEST_COUNT:
        return None
    words = tuple(word if isinstance(word, int) else _handle(word) for word in message)
    return Native(library, MPI._addressof(request), -1 if message else nbytes, words, request)


def _handle(thing: Any) -> int:
    """The handle as a signed word; MPICH's are ints, and some of them negative."""
    return ctypes.c_ssize_t(MPI._handleof(thing)).value


def _bytes_of(memory: NDArray) -> list[Any]:
    return [memory.reshape(-1).view(np.uint8), memory.nbytes, MPI.BYTE]


def _free_transport(comm: MPI.Comm, keyval: int, transport: MpiTransport) -> None:
    """Called by MPI when the user frees the communicator."""
    _BY_HANDLE.pop(_handleof(comm), None)
    if MPI.Is_finalized():
        return
    if transport.same_call is not None:
        transport.same_call.free()
    if comm != MPI.COMM_WORLD:  # which is freed by the end of MPI, each rank for itself
        _forget_plans(transport)
        if transport.home is not None:
            transport.home.free()
        transport.node.Free()
    transport.comm.Free()


def _forget_plans(transport: MpiTransport) -> None:
    """Free all plans, which keep arrays alive and could not run any more."""
    for plan in list(transport.plans):
        plan.free()
        plan.collective.plans.clear()  # or the two would refer to each other until the next collection of garbage
        plan.collective.forget_bounce_buffer()
    transport.cache.clear()
    transport.seen.clear()


_handleof: Callable[[Any], int] = MPI._handleof
_BY_HANDLE: dict[int, MpiTransport] = {}  # which is found in a third of the time that an attribute takes
_KEYVAL = MPI.Comm.Create_keyval(delete_fn=_free_transport)


def transport_of(comm: MPI.Intracomm) -> MpiTransport:
    """Collective the first time: the transport of a communicator, made once and kept with it."""
    try:
        return _BY_HANDLE[_handleof(comm)]
    except (KeyError, TypeError):
        return _made_for(comm)


def _made_for(comm: Any) -> MpiTransport:
    """Collective: the transport of a communicator that has none yet."""
    if isinstance(comm, MPI.Comm) and comm == MPI.COMM_NULL:
        raise ValueError("comm is MPI.COMM_NULL: this rank is not in the group and must not make the call.")
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm must be an mpi4py intracommunicator, not {type(comm).__name__}.")
    with watchdog.waiting(
        f"rank {comm.rank} of {comm.size} waits for all ranks to use a communicator for the first time"
    ):
        transport = MpiTransport(comm)
    comm.Set_attr(_KEYVAL, transport)  # so that it goes with the communicator
    _BY_HANDLE[_handleof(comm)] = transport
    return transport
