"""Raw TCP in a ring: every rank sends to its right neighbour while it receives from its left one, without MPI.

This is the bar for an all-reduce on the same links, and it empties the token buckets of links that are virtual.
"""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack, suppress

import psutil
from mpi4py import MPI

from hpcdist.mpi.collective_errors import agree

BLOCK = 1 << 20  # bytes handed to the kernel at once
PATIENCE = 60.0  # seconds without a byte


class Neighbours(ExitStack):
    """A connection to the right neighbour and one from the left; a context that closes them. Making it is collective.

    Args:
        comm: the communicator; over it the ranks tell each other their addresses.
        interface: whose IPv4 address to use, as "eth0".

    Raises: AgreedError on all ranks if one has no such interface.
    """

    def __init__(self, comm: MPI.Intracomm, interface: str):
        super().__init__()
        own = psutil.net_if_addrs().get(interface, [])
        address = next((each.address for each in own if each.family == socket.AF_INET), None)
        agree(comm, address is not None, f"there is no interface {interface} with an IPv4 address; see --interface")
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
