"""Messages between ranks of one node that can open each other's device memory: they say where the data lies.

A send brings the receiver a token, which names the sender's memory. The receiver copies from there, on a stream of its
own, and answers when the copy is done; the send is complete when that answer has come.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict, deque
from collections.abc import Callable, Sequence

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.device.accelerator import Accelerator, DeviceArray, Event, Share, Stream
from hpcdist.transport import Request, TransferError
from hpcdist.transport.mpi import MpiTransport

TOKEN = 512  # bytes of a packed share
_HEAD = struct.Struct("<QQH")  # offset, nbytes, bytes of the allocation's name


def packed(share: Share) -> NDArray[np.uint8]:
    """A share as a token, uint8[TOKEN]; ValueError if the name of its allocation is too long."""
    if len(share.allocation) > TOKEN - _HEAD.size:
        raise ValueError(f"an allocation has a name of {len(share.allocation)} bytes; {TOKEN - _HEAD.size} is the most")
    data = _HEAD.pack(share.offset, share.nbytes, len(share.allocation)) + share.allocation
    return np.frombuffer(data.ljust(TOKEN, b"\0"), np.uint8)


def unpacked(token: NDArray[np.uint8]) -> Share:
    """The share in a token."""
    offset, nbytes, length = _HEAD.unpack_from(token.data)
    return Share(token[_HEAD.size : _HEAD.size + length].tobytes(), offset, nbytes)


class PeerMemory:
    """Memory of another rank under the token that came last; the same one again costs no more than a comparison."""

    def __init__(self, accelerator: Accelerator, rank: int, like: DeviceArray) -> None:
        """`like`: an array of this rank, which has the dtype and the size that the other's must have."""
        self._accelerator, self._rank = accelerator, rank
        self._dtype, self._nbytes = like.dtype, like.nbytes
        self._token = b""
        self._memory: DeviceArray = None

    def at(self, token: NDArray[np.uint8]) -> DeviceArray:
        """What a token names, flat; TransferError if it is of another size."""
        if token.tobytes() != self._token:
            share = unpacked(token)
            if share.nbytes != self._nbytes:
                raise TransferError.of(share.nbytes, self._nbytes, self._rank)
            self._memory, self._token = self._accelerator.opened(share, self._dtype), token.tobytes()
        return self._memory


class IpcTransport:
    """The ranks of a node. Making one is no collective call."""

    def __init__(self, transport: MpiTransport, accelerator: Accelerator) -> None:
        """`transport`: of tokens and answers; `accelerator`: where all memory of this rank is."""
        self.rank, self.size = transport.rank, transport.size
        self._transport, self._accelerator = transport, accelerator
        self._stream = accelerator.stream()
        self._pairs: defaultdict[tuple[int, int], _Pair] = defaultdict(_Pair)

    def send(self, memory: DeviceArray, peer: int, tag: int) -> _Send:
        """Bind a send."""
        token = packed(self._accelerator.share(memory))
        return _Send(self._transport, token, memory, peer, tag)

    def receive(self, memory: DeviceArray, peer: int, tag: int) -> _Receive:
        """Bind a receive."""
        source = PeerMemory(self._accelerator, peer, memory)
        return _Receive(self._transport, self._stream, self._pairs[peer, tag], source, memory, peer, tag)


class _Request:
    native = None
    test: Callable[[], bool]

    def wait(self) -> None:
        """Test until complete."""
        while not self.test():
            os.sched_yield()


class _Send(_Request):
    """An answer without bytes says that the memory was copied; one with bytes, how many were due instead."""

    def __init__(
        self, transport: MpiTransport, token: NDArray[np.uint8], memory: DeviceArray, peer: int, tag: int
    ) -> None:
        self._memory, self._peer = memory, peer
        self._due, self._status = np.empty(1, np.int64), MPI.Status()
        self._token = transport.comm.Send_init([token, MPI.BYTE], peer, tag)
        self._answer = transport.comm.Recv_init([self._due, MPI.BYTE], peer, transport.answering(tag))
        self._answered = True

    def start(self) -> None:
        """Offer the memory."""
        self._answered = False
        self._answer.Start()
        self._token.Start()

    def test(self) -> bool:
        """Whether it was copied; TransferError if it was refused."""
        if not self._answered:
            if not self._answer.Test(self._status):
                return False
            self._answered = True
            if self._status.Get_count(MPI.BYTE):
                raise TransferError.refused(self._memory.nbytes, int(self._due[0]), self._peer)
        return self._token.Test()

    def free(self) -> None:
        """Give up the binding."""
        self._token.Free()
        self._answer.Free()


class _Receive(_Request):
    """A copy out of the sender's memory; goes its way with the others of its pair."""

    def __init__(
        self,
        transport: MpiTransport,
        stream: Stream,
        pair: _Pair,
        source: PeerMemory,
        memory: DeviceArray,
        peer: int,
        tag: int,
    ) -> None:
        self._comm, self._to = transport.comm, (peer, transport.answering(tag))
        self._stream, self._pair, self._source, self._memory = stream, pair, source, memory
        self._bytes, self._due = np.empty(TOKEN, np.uint8), np.array([memory.nbytes])
        self._token = transport.comm.Recv_init([self._bytes, MPI.BYTE], peer, tag)
        self._event: Event
        self._complete = True

    def start(self) -> None:
        """Wait for the token, behind those started before."""
        self._complete = False
        self._token.Start()
        self._pair.expected.append(self)

    def test(self) -> bool:
        """Whether the data is here; TransferError if other data was offered."""
        if not self._complete:
            self._pair.advance()
        return self._complete

    def offered(self) -> bool:
        """Whether the token has come."""
        return self._token.Test()

    def copy(self) -> None:
        """Copy what it names."""
        try:
            source = self._source.at(self._bytes)
        except TransferError:
            self._comm.Isend([self._due, MPI.BYTE], *self._to).Free()
            raise
        self._stream.copy(self._memory, source)
        self._event = self._stream.record()

    def copied(self) -> bool:
        """Whether the device has."""
        return self._event.done()

    def answer(self) -> None:
        """Give the memory back to the sender."""
        self._comm.Isend([self._due, 0, MPI.BYTE], *self._to).Free()
        self._complete = True

    def free(self) -> None:
        """Give up the binding."""
        self._token.Free()


class _Pair:
    """The messages from one rank under one tag: tokens come and copies are answered in the order of the starts."""

    def __init__(self) -> None:
        self.expected: deque[_Receive] = deque()
        self.copying: deque[_Receive] = deque()

    def advance(self) -> None:
        """Go on as far as possible without waiting."""
        while self.expected and self.expected[0].offered():
            receive = self.expected.popleft()
            receive.copy()
            self.copying.append(receive)
        while self.copying and self.copying[0].copied():
            self.copying.popleft().answer()


class TokenBarrier:
    """Every rank tells every other where its memory lies, which says that the memory is ready, too: a Barrier.

    Attributes:
        tokens: what each other rank has told, uint8 as this rank's own.
    """

    def __init__(
        self, transport: MpiTransport, ranks: Sequence[int], tag: int, token: NDArray[np.uint8], what: str
    ) -> None:
        """Bind; `what` says what a rank has done that is here."""
        self._peers = [rank for rank in ranks if rank != transport.rank]
        self._what = what
        self.tokens = {rank: np.empty_like(token) for rank in self._peers}
        self._requests: list[Request] = [transport.receive(self.tokens[rank], rank, tag) for rank in self._peers]
        self._requests += [transport.send(token, rank, tag) for rank in self._peers]
        self._at = 0

    native = None

    def start(self) -> None:
        """Tell them, and listen."""
        self._at = 0
        for request in self._requests:
            request.start()

    def test(self) -> bool:
        """Hear them, as far as possible without waiting; whether all were heard."""
        while self._at < len(self._requests) and self._requests[self._at].test():
            self._at += 1
        return self._at == len(self._requests)

    def wait(self) -> None:
        """Hear them all."""
        for request in self._requests[self._at :]:
            request.wait()
        self._at = len(self._requests)

    def waits_for(self) -> str:
        """The first rank that was not heard."""
        return f"rank {self._peers[self._at % len(self._peers)]} to have {self._what}" if self._peers else "nobody"

    def free(self) -> None:
        """Give up the messages."""
        for request in self._requests:
            request.free()
