"""Links between hosts: what they must carry, raw TCP over them, their token buckets, and how busy cores are meanwhile.

A token bucket that was idle lets its depth through at once, and an all-reduce of a few hundred KiB would then seem
faster than its link. So before each sample every rank sends twice that to its right neighbour, which empties the
buckets of both ends of all links. All have the time to fill up before that, or links that had been in use would be
emptied later than others, which would fill up again meanwhile. What a bucket holds again when the sample begins is its
refill.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psutil
from mpi4py import MPI

from hpcdist.bench.task import Link
from hpcdist.mpi.collective_errors import agree

BLOCK = 1 << 20  # bytes handed to the kernel at once
PATIENCE = 60.0  # seconds without a byte


class Neighbours(ExitStack):
    """Raw TCP in a ring: every rank sends to its right neighbour while it receives from its left one, without MPI.

    This is the bar for an all-reduce on the same links. A context that closes its connections; making it is collective.

    Args:
        comm: the communicator; over it the ranks tell each other their addresses.
        interface: whose IPv4 address to use, as "eth0".

    Raises: AgreedError on all ranks if one has no such interface.
    """

    def __init__(self, comm: MPI.Intracomm, interface: str):
        super().__init__()
        own = psutil.net_if_addrs().get(interface, [])
        address = next((each.address for each in own if each.family == socket.AF_INET), None)
        agree(comm, address is not None, f"there is no interface {interface} with an IPv4 address")
        with socket.create_server((address, 0)) as server:
            addresses = comm.allgather(server.getsockname())
            self.right = self.enter_context(socket.create_connection(addresses[(comm.rank + 1) % comm.size]))
            self.left = self.enter_context(server.accept()[0])
        for connection in (self.right, self.left):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
        self.out, self.into = memoryview(bytes(BLOCK)), memoryview(bytearray(BLOCK))

    def exchange(self, nbytes: int) -> None:
        """Send `nbytes` to the right while as many come from the left; returns when all have come.

        Raises: TimeoutError if nothing moves for a minute; ConnectionError if a neighbour is gone.
        """
        to_send = to_receive = nbytes
        poll = select.poll()
        poll.register(self.left, select.POLLIN)
        poll.register(self.right, select.POLLOUT)
        while to_send or to_receive:
            if not poll.poll(PATIENCE * 1000):
                raise TimeoutError(
                    f"no byte for {PATIENCE:.0f} s: {to_send} of {nbytes} are to be sent, {to_receive} to come"
                )
            if to_receive:
                to_receive -= self._receive(to_receive)
                if not to_receive:
                    poll.unregister(self.left)
            if to_send:
                to_send -= self._send(to_send)
                if not to_send:
                    poll.unregister(self.right)

    def _receive(self, nbytes: int) -> int:
        """Take what has come, up to `nbytes`."""
        with suppress(BlockingIOError):
            came = self.left.recv_into(self.into, min(nbytes, BLOCK))
            if not came:
                raise ConnectionError("the left neighbour has closed its connection")
            return came
        return 0

    def _send(self, nbytes: int) -> int:
        """Hand over what there is room for, up to `nbytes`."""
        with suppress(BlockingIOError):
            return self.right.send(self.out[: min(nbytes, BLOCK)])
        return 0


@contextmanager
def network(comm: MPI.Intracomm, link: Link | None, interface: str = "eth0") -> Iterator[Neighbours | None]:
    """Raw TCP over the links, if there are any. Collective."""
    if link is None:
        yield None
        return
    with Neighbours(comm, interface) as neighbours:
        yield neighbours
