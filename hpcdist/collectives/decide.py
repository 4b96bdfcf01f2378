"""What is decided from the facts: the path of the data, the algorithm, the segments; a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from hpcdist import algorithms
from hpcdist.collectives.facts import NOT_ONE_NODE, Facts, is_shared
from hpcdist.collectives.signature import Signature
from hpcdist.device import paths
from hpcdist.device.paths import AUTO, AWARE, HOST, PEER, STAGED
from hpcdist.errors import ArgumentError
from hpcdist.executor.intranode.bounce_layout import SMALL
from hpcdist.transport.shared_memory import NOBODY
from hpcdist.tuning.auto import resolve
from hpcdist.tuning.table import Choice, Selection
from hpcdist.util.sizes import format_bytes

# Bytes of a segment unless told otherwise, or unless less is sent at once between hosts, see `mpi.quirks`.
# Staged data crosses three links one after the other, which overlap by segments only, and the first and the last
# segment are alone on theirs: so they are small, though large enough that a copy takes much longer than to submit it.
# Direct data crosses one link, the fastest there is, and each segment costs two messages of MPI beside it.
SEGMENTS = {HOST: 1 << 22, STAGED: 1 << 20, AWARE: 1 << 22, PEER: 1 << 24}
# Bytes of the largest buffer in pieces that are sent at once: each is copied twice more, for which Open MPI keeps
# memory, and where cores are slower than links (two cores, 10 Gbit/s) larger buffers take up to 1.5 times as long so.
LARGEST_AT_ONCE = 1 << 24
LARGEST_MESSAGE = 1 << 30  # bytes; MPI counts of many libraries end at 2**31 - 1
LEAST_WITHOUT_FLAGS = 1 << 13  # bytes; less is better sent, unless waiting is compiled


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


@dataclass(frozen=True)
class Sharing:
    """How the ranks of a node can work in memory that they share.

    Attributes:
        hindrance: why they cannot; None if they can.
        bounced: whether the arrays would pass through bounce buffers, and not be that memory themselves.
        remark: what is worth saying where "auto" is explained.
    """

    hindrance: str | None
    bounced: bool = False
    remark: str | None = None


def decide(facts: Facts, table: Selection | None) -> Decision:
    """All that is to be chosen.

    Args:
        facts: what all ranks know.
        table: what "auto" reads.

    Raises: ArgumentError, on all ranks alike, if what was asked for is not possible.
    """
    path, why_path = HOST, paths.IN_HOST_MEMORY
    if facts.device:
        path, why_path = paths.decide(facts.signature.path, facts.device)
    sharing = _sharing(facts, path, why_path)
    name, segment, why = _algorithm(facts, table, sharing, path)
    if is_shared(name) and sharing.hindrance:
        instead = "Name another algorithm."
        if path == HOST:
            instead = "Make the buffers with hpcdist.empty(shape, dtype, comm) on all ranks, or name another algorithm."
        raise ArgumentError(
            f"algorithm={name!r} works in memory that the ranks of a node share, but {sharing.hindrance}. {instead}"
        )
    segments = _segments(facts, path, segment)
    bounced = sharing.bounced and is_shared(name)
    signature = replace(facts.signature, algorithm=name)
    return Decision(signature, facts.topology, *segments, why, path, why_path, bounced)


def _sharing(facts: Facts, path: str, why_path: str) -> Sharing:
    """How ranks can share memory: in the arrays, or through bounce buffers, with which little data is faster."""
    if path != HOST:
        return Sharing(None if path == PEER else f"the path of the data is {path}: {why_path}")
    in_place, bounced = facts.not_in_place, facts.not_bounced
    if in_place is None and (bounced or facts.nbytes > SMALL):
        return Sharing(None)
    remark = None if in_place in (None, NOBODY) else f"not in the arrays themselves: {in_place}"
    if bounced is None and facts.asks_for_memory:
        return Sharing(None, bounced=True, remark=remark)
    if not facts.asks_for_memory:
        return Sharing(in_place)
    remarks = [remark, None if bounced == NOT_ONE_NODE else f"not through bounce buffers: {bounced}"]
    remark = "; ".join(filter(None, remarks)) or None
    return Sharing(f"{in_place}; and the arrays cannot pass through bounce buffers: {bounced}", remark=remark)


def _algorithm(facts: Facts, table: Selection | None, sharing: Sharing, path: str) -> tuple[str, int | None, str]:
    """Which algorithm is meant; (name, segment bytes or None, why)."""
    signature, topology = facts.signature, facts.topology
    if signature.algorithm != AUTO:
        return signature.algorithm, signature.segment_nbytes, "it was asked for"
    if not sharing.hindrance and (slow := _too_small(facts)):
        sharing = Sharing(slow, remark=f"not in shared memory: {slow}")
    in_place = not sharing.hindrance and not sharing.bounced
    if in_place and len(set(topology)) == 1 < len(topology):
        return algorithms.SHARED, signature.segment_nbytes, "all ranks share the memory of the buffers"
    what = (signature.dtype, facts.nbytes, signature.memory, path)
    choice = resolve(table, len(topology), topology, *what, bounced=sharing.bounced)
    name, why = _in_memory(choice, in_place)
    why = f"{why}; {sharing.remark}" if sharing.remark else why
    return name, choice.segment_nbytes if signature.segment_nbytes is None else signature.segment_nbytes, why


def _too_small(facts: Facts) -> str | None:
    """Why messages are faster though the ranks could work in each other's buffers, or None."""
    if facts.device or facts.nbytes >= LEAST_WITHOUT_FLAGS or facts.compiled:
        return None
    said = format_bytes(facts.nbytes)
    return f"{said} are faster in messages than where ranks wait for each other without Numba's flags"


def _in_memory(choice: Choice, in_place: bool) -> tuple[str, str]:
    """(algorithm, why): hierarchical becomes shared where ranks of a node can work in each other's arrays."""
    family, _, parts = choice.algorithm.partition(":")
    if not in_place:
        return choice.algorithm, choice.why
    if family != "hierarchical":
        return choice.algorithm, f"{choice.why}; so shared memory inside a node is of no use"
    outer = parts.partition("+")[2]
    name = f"{algorithms.SHARED}:{outer}" if outer else algorithms.SHARED
    return name, f"{choice.why}; inside a node in shared memory, as the buffers are"


def _segments(facts: Facts, path: str, asked: int | None) -> tuple[int, int]:
    """Bytes of a segment of messages between nodes, and inside one.

    What is asked for, 0 being whole messages, is for the network where there is one: memory likes larger pieces.
    """
    default = SEGMENTS[path]
    if asked is not None:
        between = min(asked or LARGEST_MESSAGE, LARGEST_MESSAGE)
        return between, between if len(set(facts.hosts)) == 1 else max(between, default)
    if path == HOST and facts.sent_at_once and facts.nbytes <= LARGEST_AT_ONCE:
        return min(default, facts.sent_at_once), default
    return default, default
