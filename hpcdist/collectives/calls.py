"""The calls: all-reduce and its relatives over an MPI communicator, each as a plan or in one line.

Every call is collective: all ranks of the communicator make the same calls in the same order. What ranks must agree
on (count, dtype, op, algorithm, host or device memory, path) is compared before any data moves, and all ranks raise
alike if it differs. Buffers are NumPy arrays, or arrays in device memory, for which uint16 stands for bfloat16.
"""

from __future__ import annotations

import gc
import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcdist.algorithms import settled
from hpcdist.collectives.decide import decide
from hpcdist.collectives.facts import Table, gather
from hpcdist.collectives.plan import Collective, Plan, own_bounce_buffer
from hpcdist.collectives.plan_cache import forget_shared, run
from hpcdist.collectives.signature import Signature, agree_on, problem_of, signature_of
from hpcdist.device import accelerator_of
from hpcdist.device.paths import AUTO, asked_for
from hpcdist.executor.intranode.capability import compiled_on_all
from hpcdist.kernels.reduce import DTYPES
from hpcdist.schedule.ir import Schedule
from hpcdist.transport.mpi import transport_of
from hpcdist.transport.shared_memory import home_of
from hpcdist.util.sizes import format_bytes

# --- plans ---


def plan(
    comm: MPI.Intracomm,
    buffer: NDArray,
    out: NDArray | None = None,
    *,
    algorithm: str | Schedule = "auto",
    op: str = "sum",
    segment_nbytes: int | None = None,
    topology: Sequence[int] | None = None,
    selection: Table = None,
    path: str = AUTO,
) -> Plan:
    """Collective: bind an all-reduce to its buffers, to run it many times.

    Args:
        comm: an mpi4py intracommunicator. It is duplicated once; its own traffic is never touched.
        buffer: C-contiguous array of float64, float32, float16, bfloat16, int32 or int64, of the same count on all
            ranks, in host memory everywhere or in device memory everywhere.
        out: where the result goes, of the shape and dtype of `buffer` and in the same memory; `buffer` is then left as
            it is. In place if None.
        algorithm: a name from `hpcdist.algorithms.ALLREDUCE`, "hierarchical:INNER+OUTER", "shared" where all
            ranks are on one node, "shared" or "shared:OUTER" for arrays of `empty` and for device memory on the path
            "peer", or "auto"; or one of yours: a name that was registered, "FILE.py:FUNCTION", or a `Schedule` for
            this number of ranks. Yours are proven first.
        op: "sum", "max", "min", "prod" or "avg" (the sum divided by the number of ranks; integers toward zero).
        segment_nbytes: bytes of the pieces in which a message travels while others are reduced, between nodes if there
            are several; 0 for whole messages, None for the table's or the default, which between nodes is what Open MPI
            sends at once over TCP if the buffer is of 16 MiB at most.
        topology: the node of each rank; found out from MPI if None.
        selection: the table that "auto" reads, or its path; None for HPCDIST_SELECTION, and without that the price
            model.
        path: how buffers in device memory travel: "staged" through host memory, "aware" by an MPI that takes device
            memory, "peer" by ranks of one node that open each other's memory; or "auto", which is HPCDIST_PATH if
            that is set, and else the first of peer, aware and staged that is known to work.

    Raises, on all ranks alike:
        ArgumentError: if a rank's argument cannot be used or the ranks do not agree.
        AgreedError: if a rank cannot bind its buffers, for want of memory or of what HPCDIST_COMPILED=1 asks for.
    """
    transport = transport_of(comm)
    nodes, no_topology = _node_numbers(topology)
    device = accelerator_of(buffer)
    signature = signature_of(
        "allreduce",
        buffer,
        op,
        settled(algorithm, transport.size, nodes or transport.topology),
        segment_nbytes=segment_nbytes,
        topology=nodes,
        path=str(asked_for(path) if device else path),
    )
    problem = no_topology or problem_of(signature, transport, buffer, out)
    wanted = {} if problem else own_bounce_buffer(transport, signature, buffer, out)
    facts, table, _ = gather(transport, signature, problem, buffer, out, selection, wanted)
    return Collective(transport, decide(facts, table)).bind_together(buffer, out)


def _node_numbers(topology: Any) -> tuple[tuple[int, ...] | None, str | None]:
    """(the topology of a call, what is wrong with it)."""
    try:
        return None if topology is None else tuple(topology), None
    except TypeError as error:
        return None, f"the topology must be node numbers, one per rank, not {topology!r:.60}: {error}"


# --- arrays in shared memory ---


def empty(shape: int | Sequence[int], dtype: DTypeLike, comm: MPI.Intracomm) -> NDArray:
    """Collective: an array in memory that the ranks of `comm` on the same node share, as numpy.empty otherwise.

    An all-reduce whose buffers are such arrays of all ranks, or the same slices of them, works in the memory of the
    other ranks instead of sending messages inside the node (algorithm "shared").

    The array lives as long as anything refers to it. Its memory is given back when no rank of the node refers to it
    any more, at the next `empty` or `release` on `comm` or when `comm` is freed.

    Args:
        shape: the same on all ranks.
        dtype: float64, float32, float16, bfloat16, int32 or int64.
        comm: an mpi4py intracommunicator.

    Raises:
        ArgumentError: on all ranks alike, if an argument cannot be used or the ranks do not agree.
        AgreedError: on all ranks alike, if a node has no room for it; says how much is missing.
    """
    transport = transport_of(comm)
    sizes, element, problem = _shape_and_dtype(shape, dtype)
    agree_on(transport, Signature("empty", math.prod(sizes), element.name, "", ""), problem)
    forget_shared(transport)
    compiled_on_all(transport)
    nbytes = math.prod(sizes) * element.itemsize
    memory = home_of(transport).allocate(nbytes, f"an array of {format_bytes(nbytes)}")
    return memory.view(element).reshape(sizes)


def release(comm: MPI.Intracomm) -> int:
    """Collective: give back the memory of arrays made by `empty` on `comm` to which no rank refers any more.

    Delete what refers to them first (`del x`); a plan refers to its arrays until it is closed. The bounce buffers of
    plans that were closed are given back, too.

    Returns: bytes given back on this rank.
    """
    transport = transport_of(comm)
    forget_shared(transport)
    gc.collect()
    transport.take_back(transport.exchange(frozenset(transport.dropped), "release arrays"))
    home = home_of(transport)
    home.forget_bounce_buffers(transport.free_tags)
    return home.collect()


def _shape_and_dtype(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype, str | None]:
    """The arguments of `empty` as what they should be, and what is wrong with them."""
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
        element = np.dtype(dtype)
    except TypeError as error:
        return (0,), np.dtype(np.uint8), f"shape {shape!r:.60} and dtype {dtype!r:.60} make no array: {error}"
    if any(size < 0 for size in sizes):
        return sizes, element, f"the shape {sizes} has a negative size"
    if element not in DTYPES.values():
        return sizes, element, f"dtype {element} is not supported; choose from {', '.join(DTYPES)}"
    return sizes, element, None


# --- one-line calls ---


def allreduce(
    comm: MPI.Intracomm,
    buffer: NDArray,
    op: str = "sum",
    algorithm: str | Schedule = "auto",
    *,
    out: NDArray | None = None,
) -> NDArray:
    """Collective: combine the buffers of all ranks; every rank gets the result, equal bit for bit.

    The plan is kept with the communicator, by what all ranks share; a rank's own address is bound beside it, and the
    last few buffers stay bound (and alive). Each call costs one small message exchange for the check that all ranks
    make the same call; `plan` has that behind it.

    Args, raises: as `plan`. Returns: `buffer`, or `out`.
    """
    run(comm, "allreduce", buffer, out, op, algorithm)
    return buffer if out is None else out


def own_part(buffer: NDArray, rank: int, size: int) -> NDArray:
    """Rank's near-equal part of a buffer, as a flat view: elements count*rank//size .. count*(rank+1)//size - 1."""
    flat = buffer.reshape(-1)
    return flat[flat.size * rank // size : flat.size * (rank + 1) // size]


def reduce_scatter(comm: MPI.Intracomm, buffer: NDArray, op: str = "sum", algorithm: str = "ring") -> NDArray:
    """Collective: combine the buffers of all ranks; rank r gets part r, and the other parts hold rubbish.

    Args: as `plan`; algorithm "ring", "direct", or "halving_doubling" on a power of two of ranks.
    Returns: this rank's part of `buffer`, a flat view (see `own_part`). Raises: as `plan`.
    """
    run(comm, "reduce_scatter", buffer, None, op, algorithm)
    return own_part(buffer, comm.rank, comm.size)


def allgather(comm: MPI.Intracomm, buffer: NDArray, algorithm: str = "ring") -> NDArray:
    """Collective: every rank has filled its own part of `buffer` (see `own_part`) and gets the others'.

    Args: as `reduce_scatter`. Returns: `buffer`. Raises: as `plan`.
    """
    run(comm, "allgather", buffer, None, algorithm=algorithm)
    return buffer


def bcast(comm: MPI.Intracomm, buffer: NDArray, root: int = 0) -> NDArray:
    """Collective: every rank gets what `root` has in its buffer. Returns: `buffer`. Raises: as `plan`."""
    run(comm, "bcast", buffer, None, root=root)
    return buffer


def reduce(comm: MPI.Intracomm, buffer: NDArray, op: str = "sum", root: int = 0) -> NDArray:
    """Collective: `root` gets the combined buffers of all ranks in its own; those of the others hold rubbish.

    Returns: `buffer`. Raises: as `plan`.
    """
    run(comm, "reduce", buffer, None, op, root=root)
    return buffer


def alltoall(comm: MPI.Intracomm, buffer: NDArray, out: NDArray) -> NDArray:
    """Collective: part d of rank s's `buffer` becomes part s of rank d's `out`.

    The count must be a multiple of the number of ranks. Returns: `out`. Raises: as `plan`.
    """
    run(comm, "alltoall", buffer, out)
    return out
