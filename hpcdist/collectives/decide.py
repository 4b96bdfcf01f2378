"""What the ranks of a call choose together before it is bound: the path of the data, the algorithm, the segment.

All of it is collective, and comes out the same on every rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from hpcdist.collectives.decide_algorithm import (
    Lying,
    Sharing,
    Table,
    choose_algorithm,
    is_shared,
    sharing_of_host_memory,
)
from hpcdist.collectives.decide_path import choose_path
from hpcdist.collectives.signature import Signature
from hpcdist.device import Accelerator, accelerator_of
from hpcdist.device.paths import AUTO, AWARE, DIRECT, HOST, STAGED
from hpcdist.kernels.reduce import DTYPES
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import place_of

__all__ = ["LARGEST_MESSAGE", "SEGMENTS", "Decision", "Lying", "Table", "decide", "is_shared", "where"]

# Bytes of a segment unless told otherwise, or unless less is sent at once between hosts, see `mpi.quirks`.
# Staged data crosses three links one after the other, which overlap by segments only, and the first and the last
# segment are alone on theirs: so they are small, though large enough that a copy takes much longer than to submit it.
# Direct data crosses one link, the fastest there is, and each segment costs two messages of MPI beside it.
SEGMENTS = {HOST: 1 << 22, STAGED: 1 << 20, AWARE: 1 << 22, DIRECT: 1 << 24}
# Bytes of the largest buffer in pieces that are sent at once: each is copied twice more, for which Open MPI keeps
# memory, and where cores are slower than links (two cores, 10 Gbit/s) larger buffers take up to 1.5 times as long so.
LARGEST_AT_ONCE = 1 << 24
LARGEST_MESSAGE = 1 << 30  # bytes; MPI counts of many libraries end at 2**31 - 1


@dataclass(frozen=True)
class Decision:
    """What was chosen.

    Attributes:
        signature: of the call, with the algorithm's name.
        topology: the node of every rank, as the algorithm is told.
        segment_nbytes: bytes of a segment; of messages between nodes, if there are several.
        node_segment_nbytes: bytes of a segment of messages inside a node.
        why: why this algorithm.
        path: how the data travels, one of `SEGMENTS`.
        why_path: why on this path.
        bounced: whether arrays pass through bounce buffers, as ranks share one node, but not the arrays.
    """

    signature: Signature
    topology: Sequence[int]
    segment_nbytes: int
    node_segment_nbytes: int
    why: str
    path: str
    why_path: str
    bounced: bool


def decide(
    transport: MpiTransport,
    signature: Signature,
    table: Table,
    buffer: NDArray,
    out: NDArray | None,
    lying: Sequence[Lying],
    room: int,
) -> Decision:
    """Collective: all that is to be chosen.

    Args:
        transport: the ranks.
        signature: of the call, on which they agree.
        table: what "auto" reads.
        buffer: the input.
        out: where the result goes; in place if None.
        lying: where the arrays of each rank lie, see `where`.
        room: the number of the bounce buffer that it would have.

    Raises: ArgumentError, on all ranks alike, if what was asked for is not possible.
    """
    topology = transport.topology if signature.topology is None else signature.topology
    arrays = [buffer] if out is None else [out, buffer]
    path, why_path = choose_path(transport, signature, arrays, lying)
    if path == HOST:
        sharing = sharing_of_host_memory(transport, signature, arrays[0], lying, topology, room)
    else:
        sharing = Sharing(None if path == DIRECT else f"the path of the data is {path}: {why_path}")
    signature, segment, why = choose_algorithm(transport, signature, topology, table, sharing, path)
    bounced = sharing.bounced and is_shared(signature.algorithm)
    nbytes = signature.count * DTYPES[signature.dtype].itemsize
    segments = _segments(transport, path, nbytes, segment)
    return Decision(signature, topology, *segments, why, path, why_path, bounced)


def _segments(transport: MpiTransport, path: str, nbytes: int, asked: int | None) -> tuple[int, int]:
    """Bytes of a segment of messages between nodes, and inside one, for a buffer of `nbytes`.

    What is asked for, 0 being whole messages, is for the network where there is one: memory likes larger pieces.
    """
    default = SEGMENTS[path]
    if asked is not None:
        between = min(asked or LARGEST_MESSAGE, LARGEST_MESSAGE)
        return between, between if len(set(transport.topology)) == 1 else max(between, default)
    if path == HOST and transport.sent_at_once and nbytes <= LARGEST_AT_ONCE:
        return min(default, transport.sent_at_once), default
    return default, default


def where(call: str, algorithm: str, buffer: NDArray, out: NDArray | None, device: Accelerator | None) -> Lying:
    """Where the arrays of this rank lie, as far as that matters to what is chosen."""
    if device is not None:
        return tuple(device.unshareable(array) for array in (buffer, out) if accelerator_of(array))
    if call != "allreduce" or not (algorithm == AUTO or is_shared(algorithm)):
        return None
    return (place_of(buffer), None) if out is None else (place_of(out), place_of(buffer))
