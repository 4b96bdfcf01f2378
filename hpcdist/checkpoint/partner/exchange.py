"""Every rank's share to its partner, by our own point-to-point: in segments, receives first, counts compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from hpcdist.transport import TransferError, Transport
from hpcdist.util import watchdog

SEGMENT = 16 << 20  # bytes of a message at most; more at once would not be faster, and some MPI count in 32 bits
TAG = 0  # of a communicator that nobody else uses


def segments(memory: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """Bytes in parts that go in one message."""
    for start in range(0, memory.nbytes, SEGMENT):
        yield memory[start : start + SEGMENT]


def exchange(
    transport: Transport,
    outgoing: Mapping[int, NDArray[np.uint8]],
    incoming: Mapping[int, NDArray[np.uint8]],
) -> TransferError | None:
    """Send and receive bytes by peer.

    Returns:
        The first message that came with another length than was due; all have come to an end nevertheless.
    """
    receives = [transport.receive(part, peer, TAG) for peer, memory in incoming.items() for part in segments(memory)]
    sends = [transport.send(part, peer, TAG) for peer, memory in outgoing.items() for part in segments(memory)]
    requests = [*receives, *sends]
    trouble = None
    for request in requests:
        request.start()
    with watchdog.waiting(f"rank {transport.rank} of {transport.size} exchanges partner copies"):
        for request in requests:
            try:
                request.wait()
            except TransferError as error:
                trouble = trouble or error
    for request in requests:
        request.free()
    return trouble
