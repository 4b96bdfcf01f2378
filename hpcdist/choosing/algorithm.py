"""Which algorithm is meant: the one that was named, or what "auto" stands for here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from hpcdist import algorithms, selection
from hpcdist.agreement import Signature
from hpcdist.device.paths import AUTO, HOST
from hpcdist.errors import ArgumentError
from hpcdist.sizes import format_bytes
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.window import NOBODY, Place, home_of, obstacle

LEAST_WITHOUT_FLAGS = 1 << 13  # bytes; less is better sent, unless waiting is compiled
NOT_ASKED = "the call is none that could use it"

Places = tuple[Place | None, Place | None]  # of the result, and of the input if that is another array
Lying = Places | tuple[str | None, ...] | None  # of device memory: why each array cannot be opened by others
Table = selection.Selection | str | os.PathLike[str] | None


def is_shared(algorithm: object) -> bool:
    """Whether the algorithm works in the memory of other ranks."""
    return str(algorithm).partition(":")[0] == algorithms.SHARED


def hindrance_in_host_memory(
    transport: MpiTransport, result: NDArray, lying: Sequence[Any], topology: Sequence[int]
) -> str | None:
    """Why the ranks cannot work in each other's host memory, or None if they can; the same on all ranks."""
    known = [place for place in lying if place is not None]
    if not known:
        return NOT_ASKED
    results, inputs = zip(*known, strict=True)
    if any(results) and len(set(inputs)) > 1:
        return "the ranks' inputs do not lie at the same place of the same array of hpcdist.empty, or all elsewhere"
    return obstacle(transport, result, results, topology)


def choose_algorithm(
    transport: MpiTransport,
    signature: Signature,
    topology: Sequence[int],
    table: Table,
    hindrance: str | None,
    path: str,
) -> tuple[Signature, int | None, str]:
    """Collective: which algorithm is meant; (signature, segment bytes or None, why)."""
    name, segment, why = signature.algorithm, signature.segment_nbytes, "it was asked for"
    if name == AUTO and not hindrance:
        hindrance = _too_small(transport, signature)
    if name == AUTO and not hindrance and len(set(topology)) == 1 < len(topology):
        name, why = algorithms.SHARED, "all ranks share the memory of the buffers"
    elif name == AUTO:
        choice = _by_table(transport, signature, topology, table, path)
        name, why = _in_memory(choice, hindrance, signature.memory)
        segment = choice.segment_nbytes if segment is None else segment
    if is_shared(name) and hindrance:
        instead = "Name another algorithm."
        if signature.memory == HOST:
            instead = "Make the buffers with hpcdist.empty(shape, dtype, comm) on all ranks, or name another algorithm."
        raise ArgumentError(
            f"algorithm={name!r} works in memory that the ranks of a node share, but {hindrance}. {instead}"
        )
    return replace(signature, algorithm=name), segment, why


def _too_small(transport: MpiTransport, signature: Signature) -> str | None:
    """Why messages are faster though the ranks could work in each other's buffers, or None."""
    nbytes = signature.count * selection.DTYPES[signature.dtype].itemsize
    if signature.memory != HOST or nbytes >= LEAST_WITHOUT_FLAGS or home_of(transport).flags:
        return None
    return f"{format_bytes(nbytes)} are faster in messages than where ranks wait for each other without Numba's flags"


def _in_memory(choice: selection.Choice, hindrance: str | None, memory: str) -> tuple[str, str]:
    """(algorithm, why): hierarchical becomes shared where ranks of a node can work in each other's buffers."""
    family, _, parts = choice.algorithm.partition(":")
    if hindrance:
        said = memory == HOST and hindrance not in (NOT_ASKED, NOBODY)
        return choice.algorithm, f"{choice.why}; not in shared memory: {hindrance}" if said else choice.why
    if family != "hierarchical":
        return choice.algorithm, f"{choice.why}; so shared memory inside a node is of no use"
    outer = parts.partition("+")[2]
    name = f"{algorithms.SHARED}:{outer}" if outer else algorithms.SHARED
    return name, f"{choice.why}; inside a node in shared memory, as the buffers are"


def _by_table(
    transport: MpiTransport, signature: Signature, topology: Sequence[int], table: Table, path: str
) -> selection.Choice:
    """Collective: what "auto" means, decided by rank 0 for all."""
    problem, choice = None, None
    if transport.rank == 0:
        nbytes = signature.count * selection.DTYPES[signature.dtype].itemsize
        try:
            what = (signature.dtype, nbytes, signature.memory, path)
            choice = selection.resolve(table, transport.size, topology, *what)
        except (OSError, TypeError, ValueError) as error:
            problem = f"the selection table cannot be used: {error}"
    problem, choice = transport.from_rank_0((problem, choice), "hear which algorithm auto is")
    if choice is None:
        raise ArgumentError(problem)
    return choice
