"""Which algorithm is meant: the one that was named, or what "auto" stands for here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from hpcdist import algorithms
from hpcdist.collectives.signature import Signature
from hpcdist.device.paths import AUTO, HOST
from hpcdist.errors import ArgumentError
from hpcdist.executor.intranode.capability import compiled_on_all
from hpcdist.kernels.reduce import DTYPES
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import NOBODY, Place, home_of, obstacle
from hpcdist.tuning.auto import resolve
from hpcdist.tuning.table import Choice, Selection
from hpcdist.util.sizes import format_bytes

LEAST_WITHOUT_FLAGS = 1 << 13  # bytes; less is better sent, unless waiting is compiled
NOT_ASKED = "the call is none that could use it"
NOT_ONE_NODE = "the ranks are not all on one node, or there is but one"
NO_FLAGS = "they need compiled code on all ranks: see HPCDIST_COMPILED, and the extra hpcdist[fast] for Numba"

Places = tuple[Place | None, Place | None]  # of the result, and of the input if that is another array
Lying = Places | tuple[str | None, ...] | None  # of device memory: why each array cannot be opened by others
Table = Selection | str | os.PathLike[str] | None


def is_shared(algorithm: object) -> bool:
    """Whether the algorithm works in the memory of other ranks."""
    return str(algorithm).partition(":")[0] == algorithms.SHARED


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


def sharing_of_host_memory(
    transport: MpiTransport,
    signature: Signature,
    result: NDArray,
    lying: Sequence[Any],
    topology: Sequence[int],
    room: int,
) -> Sharing:
    """Collective: how the ranks can share host memory; the same on all ranks.

    Args:
        transport: the ranks.
        signature: of the call.
        result: this rank's array for the result.
        lying: where the arrays of each rank lie; None if that was not asked.
        topology: the node of each rank.
        room: the number of the bounce buffer that it would have.
    """
    known = [place for place in lying if place is not None]
    if not known:
        return Sharing(NOT_ASKED)
    nbytes = signature.count * DTYPES[signature.dtype].itemsize
    not_in_arrays = _hindrance_of_arrays(transport, result, known, topology)
    remark = not_in_arrays and f"not in the arrays themselves: {not_in_arrays}"
    remark = None if not_in_arrays == NOBODY else remark
    if not not_in_arrays and not _is_small(transport, nbytes):
        return Sharing(None)
    not_bounced = _hindrance_of_bouncing(transport, nbytes, topology, room)
    if not not_bounced:
        return Sharing(None, bounced=True, remark=remark)
    if not not_in_arrays:
        return Sharing(None)
    remarks = [remark, None if not_bounced == NOT_ONE_NODE else f"not through bounce buffers: {not_bounced}"]
    remark = "; ".join(filter(None, remarks)) or None
    return Sharing(f"{not_in_arrays}; and the arrays cannot pass through bounce buffers: {not_bounced}", remark=remark)


def _hindrance_of_arrays(
    transport: MpiTransport, result: NDArray, known: Sequence[Places], topology: Sequence[int]
) -> str | None:
    """Why the ranks cannot work in each other's arrays, or None."""
    results, inputs = zip(*known, strict=True)
    if any(results) and len(set(inputs)) > 1:
        return "the ranks' inputs do not lie at the same place of the same array of hpcdist.empty, or all elsewhere"
    return obstacle(transport, result, results, topology)


def _hindrance_of_bouncing(transport: MpiTransport, nbytes: int, topology: Sequence[int], room: int) -> str | None:
    """Collective: why arrays of `nbytes` cannot pass through bounce buffers, or None."""
    if not len(set(topology)) == len(set(transport.topology)) == 1 < transport.size:
        return NOT_ONE_NODE
    if not compiled_on_all(transport):
        return NO_FLAGS
    from hpcdist.executor.intranode.bounce_kernel import nbytes_for  # only where there is Numba

    return home_of(transport).no_bounce_buffer(room, nbytes_for(nbytes))


def _is_small(transport: MpiTransport, nbytes: int) -> bool:
    """Whether bounce buffers, with their one meeting, are faster even than to work in each other's arrays."""
    if not compiled_on_all(transport):
        return False
    from hpcdist.executor.intranode.bounce_kernel import SMALL

    return nbytes <= SMALL


def choose_algorithm(
    transport: MpiTransport,
    signature: Signature,
    topology: Sequence[int],
    table: Table,
    sharing: Sharing,
    path: str,
) -> tuple[Signature, int | None, str]:
    """Collective: which algorithm is meant; (signature, segment bytes or None, why)."""
    name, segment, why = signature.algorithm, signature.segment_nbytes, "it was asked for"
    if name == AUTO and not sharing.hindrance and (slow := _too_small(transport, signature)):
        sharing = Sharing(slow, remark=f"not in shared memory: {slow}")
    in_arrays = not sharing.hindrance and not sharing.bounced
    if name == AUTO and in_arrays and len(set(topology)) == 1 < len(topology):
        name, why = algorithms.SHARED, "all ranks share the memory of the buffers"
    elif name == AUTO:
        choice = _by_table(transport, signature, topology, table, path, sharing.bounced)
        name, why = _in_memory(choice, in_arrays)
        why = f"{why}; {sharing.remark}" if sharing.remark else why
        segment = choice.segment_nbytes if segment is None else segment
    if is_shared(name) and sharing.hindrance:
        instead = "Name another algorithm."
        if signature.memory == HOST:
            instead = "Make the buffers with hpcdist.empty(shape, dtype, comm) on all ranks, or name another algorithm."
        raise ArgumentError(
            f"algorithm={name!r} works in memory that the ranks of a node share, but {sharing.hindrance}. {instead}"
        )
    return replace(signature, algorithm=name), segment, why


def _too_small(transport: MpiTransport, signature: Signature) -> str | None:
    """Why messages are faster though the ranks could work in each other's buffers, or None."""
    nbytes = signature.count * DTYPES[signature.dtype].itemsize
    if signature.memory != HOST or nbytes >= LEAST_WITHOUT_FLAGS or compiled_on_all(transport):
        return None
    return f"{format_bytes(nbytes)} are faster in messages than where ranks wait for each other without Numba's flags"


def _in_memory(choice: Choice, in_arrays: bool) -> tuple[str, str]:
    """(algorithm, why): hierarchical becomes shared where ranks of a node can work in each other's arrays."""
    family, _, parts = choice.algorithm.partition(":")
    if not in_arrays:
        return choice.algorithm, choice.why
    if family != "hierarchical":
        return choice.algorithm, f"{choice.why}; so shared memory inside a node is of no use"
    outer = parts.partition("+")[2]
    name = f"{algorithms.SHARED}:{outer}" if outer else algorithms.SHARED
    return name, f"{choice.why}; inside a node in shared memory, as the buffers are"


def _by_table(
    transport: MpiTransport, signature: Signature, topology: Sequence[int], table: Table, path: str, bounced: bool
) -> Choice:
    """Collective: what "auto" means, decided by rank 0 for all."""
    problem, choice = None, None
    if transport.rank == 0:
        nbytes = signature.count * DTYPES[signature.dtype].itemsize
        try:
            what = (signature.dtype, nbytes, signature.memory, path)
            choice = resolve(table, transport.size, topology, *what, bounced=bounced)
        except (OSError, TypeError, ValueError) as error:
            problem = f"the selection table cannot be used: {error}"
    problem, choice = transport.from_rank_0((problem, choice), "hear which algorithm auto is")
    if choice is None:
        raise ArgumentError(problem)
    return choice
