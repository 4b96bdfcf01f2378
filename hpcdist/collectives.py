"""The calls: all-reduce and its relatives over an MPI communicator, each as a plan or in one line.

Every call is collective: all ranks of the communicator make the same calls in the same order. What ranks must agree
on (count, dtype, op, algorithm) is compared before any data moves, and all ranks raise alike if it differs.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist import selection
from hpcdist.agreement import (
    Signature,
    agree_on,
    problem_of,
    problem_of_buffers,
    same_everywhere,
    schedule_of,
    signature_of,
)
from hpcdist.errors import ArgumentError
from hpcdist.execute import BoundProgram
from hpcdist.program import Program, lower
from hpcdist.schedule import Layout
from hpcdist.transport.mpi import MpiTransport, raise_together, transport_of

SEGMENT = 1 << 22  # bytes of a segment unless told otherwise; networks like smaller ones, which a sweep finds
LARGEST_MESSAGE = 1 << 30  # bytes; MPI counts of many libraries end at 2**31 - 1
CACHED_PLANS = 64  # per communicator, for the one-line calls
CACHED_BUFFERS = 4  # per cached plan

Table = selection.Selection | str | os.PathLike[str] | None


class Plan(BoundProgram):
    """A collective bound to its buffers, to be run many times.

    `plan()` blocks. `plan.start()`, `plan.test()` and `plan.wait()` do not; the buffers belong to the plan in between.

    Attributes:
        algorithm: the algorithm's name, never "auto".
        segment_nbytes: bytes of a segment.
        topology: the node of every rank, as the algorithm was told.
        why: why this algorithm.
        schedule: what is run.
    """

    def __init__(self, collective: _Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._collective = collective
        self._closed = False
        signature = collective.signature
        self.algorithm = signature.algorithm
        self.segment_nbytes = collective.segment_nbytes
        self.topology = collective.topology
        self.why = collective.why
        self.schedule = collective.program.schedule
        super().__init__(
            collective.program,
            collective.transport,
            buffer if out is None else out,
            **collective.sources(buffer, out),
            op=signature.op,
            tag=collective.tag,
            inbox=collective.inbox,
        )

    def close(self) -> None:
        """Collective: free the plan's requests and its tag. It cannot run again; to close it again does nothing.

        Raises: AgreedError, on all ranks alike, if it is still running on any.
        """
        if self._closed:
            return
        transport = self._collective.transport
        if not transport.freed:
            running = "the plan is still running and cannot be closed; call wait() first" if self.running else None
            raise_together(transport.exchange(running, "close a plan"))
            transport.return_tag(self._collective.tag)
        self._closed = True
        self.free()


class _Collective:
    """An agreed collective of one communicator: everything of a plan but the addresses."""

    def __init__(self, transport: MpiTransport, signature: Signature, table: Table) -> None:
        self.transport = transport
        self.topology = transport.topology if signature.topology is None else signature.topology
        self.number = signature.number()
        self.signature, segment, self.why = _choose(transport, signature, self.topology, table)
        self.segment_nbytes = min(segment or LARGEST_MESSAGE, LARGEST_MESSAGE) if segment is not None else SEGMENT
        dtype = np.dtype(selection.DTYPES[signature.dtype])
        schedule = schedule_of(self.signature, transport.size, self.topology)
        layout = Layout.near_equal(schedule, signature.count, signature.count if schedule.input_chunks else 0)
        segment_count = max(1, self.segment_nbytes // dtype.itemsize)
        self.program: Program = lower(schedule, transport.rank, layout, segment_count)
        self.inbox = np.empty(self.program.inbox, dtype)
        self.tag = transport.take_tag()
        self.plans: OrderedDict[tuple[int, int], Plan] = OrderedDict()

    def sources(self, buffer: NDArray, out: NDArray | None) -> dict[str, NDArray]:
        """How a result that goes elsewhere is reached: from a copy, or from an input of its own."""
        if out is None:
            return {}
        return {"source": buffer} if self.program.schedule.input_chunks else {"copy_from": buffer}

    def plan_for(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """The plan for these addresses, which only this rank knows."""
        key = (_address(buffer), -1 if out is None else _address(out))
        if key in self.plans:
            self.plans.move_to_end(key)
            return self.plans[key]
        if len(self.plans) == CACHED_BUFFERS:
            self.plans.popitem(last=False)[1].free()
        self.plans[key] = Plan(self, buffer, out)
        return self.plans[key]

    def free(self) -> None:
        for plan in self.plans.values():
            plan.free()
        self.transport.return_tag(self.tag)


def _address(array: NDArray) -> int:
    return array.__array_interface__["data"][0]


def _choose(
    transport: MpiTransport, signature: Signature, topology: Sequence[int], table: Table
) -> tuple[Signature, int | None, str]:
    """Collective: what "auto" means, decided by rank 0 for all; (signature, segment bytes or None, why)."""
    if signature.algorithm != "auto":
        return signature, signature.segment_nbytes, "it was asked for"
    problem, choice = None, None
    if transport.rank == 0:
        nbytes = signature.count * selection.DTYPES[signature.dtype].itemsize
        try:
            choice = selection.resolve(table, transport.size, topology, signature.dtype, nbytes)
        except (OSError, TypeError, ValueError) as error:
            problem = f"the selection table cannot be used: {error}"
    problem, choice = transport.from_rank_0((problem, choice), "hear which algorithm auto is")
    if choice is None:
        raise ArgumentError(problem)
    segment = choice.segment_nbytes if signature.segment_nbytes is None else signature.segment_nbytes
    return replace(signature, algorithm=choice.algorithm), segment, choice.why


# --- plans ---


def plan(
    comm: MPI.Intracomm,
    buffer: NDArray,
    out: NDArray | None = None,
    *,
    algorithm: str = "auto",
    op: str = "sum",
    segment_nbytes: int | None = None,
    topology: Sequence[int] | None = None,
    selection: Table = None,
) -> Plan:
    """Collective: bind an all-reduce to its buffers, to run it many times.

    Args:
        comm: an mpi4py intracommunicator. It is duplicated once; its own traffic is never touched.
        buffer: C-contiguous array of float64, float32, float16, bfloat16, int32 or int64, of the same count on all
            ranks.
        out: where the result goes, of the shape and dtype of `buffer`, which is then left as it is; in place if None.
        algorithm: a name from `hpcdist.algorithms.ALLREDUCE`, "hierarchical:INNER+OUTER", or "auto".
        op: "sum", "max", "min", "prod" or "avg" (the sum divided by the number of ranks; integers toward zero).
        segment_nbytes: bytes of the pieces in which a message travels while others are reduced; 0 for whole messages,
            None for the table's or the default.
        topology: the node of each rank; found out from MPI if None.
        selection: the table that "auto" reads, or its path; None for HPCDIST_SELECTION, and without that the price
            model.

    Raises: ArgumentError, on all ranks alike, if a rank's argument cannot be used or the ranks do not agree.
    """
    transport = transport_of(comm)
    signature = signature_of(
        "allreduce",
        buffer,
        op,
        algorithm,
        segment_nbytes=segment_nbytes,
        topology=None if topology is None else tuple(topology),
    )
    agree_on(transport, signature, problem_of(signature, transport, buffer, out))
    return Plan(_Collective(transport, signature, selection), buffer, out)


def _call(
    comm: MPI.Intracomm,
    call: str,
    buffer: NDArray,
    out: NDArray | None,
    op: str = "sum",
    algorithm: str = "tree",
    root: int = 0,
) -> None:
    """Collective: run a cached plan, after a check that all ranks mean the same one."""
    transport = transport_of(comm)
    cache: OrderedDict[tuple, _Collective] = transport.cache
    key = (call, getattr(buffer, "size", -1), getattr(buffer, "dtype", None), str(op), str(algorithm), str(root))
    known = cache.get(key)
    if known:
        problem = None if out is None and _is_plain(call, buffer) else problem_of_buffers(call, buffer, out)
        number = known.number
    else:
        signature = signature_of(call, buffer, op, algorithm, root=root)
        problem = problem_of(signature, transport, buffer, out)
        number = signature.number()
    if not same_everywhere(transport, -1 if problem else number) or problem:
        agree_on(transport, signature_of(call, buffer, op, algorithm, root=root), problem)
    if known is None:
        if len(cache) == CACHED_PLANS:
            cache.popitem(last=False)[1].free()
        known = cache[key] = _Collective(transport, signature, None)
    cache.move_to_end(key)
    known.plan_for(buffer, out)()


def _is_plain(call: str, buffer: NDArray) -> bool:
    """A quick look at the usual case, in place: true only if `problem_of_buffers` has nothing to say either."""
    return type(buffer) is np.ndarray and buffer.flags.c_contiguous and buffer.flags.writeable and call != "alltoall"


# --- one-line calls ---


def allreduce(
    comm: MPI.Intracomm,
    buffer: NDArray,
    op: str = "sum",
    algorithm: str = "auto",
    *,
    out: NDArray | None = None,
) -> NDArray:
    """Collective: combine the buffers of all ranks; every rank gets the result, equal bit for bit.

    The plan is kept with the communicator, by what all ranks share; a rank's own address is bound beside it, and the
    last few buffers stay bound (and alive). Each call costs one small message exchange for the check that all ranks
    make the same call; `plan` has that behind it.

    Args, raises: as `plan`. Returns: `buffer`, or `out`.
    """
    _call(comm, "allreduce", buffer, out, op, algorithm)
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
    _call(comm, "reduce_scatter", buffer, None, op, algorithm)
    return own_part(buffer, comm.rank, comm.size)


def allgather(comm: MPI.Intracomm, buffer: NDArray, algorithm: str = "ring") -> NDArray:
    """Collective: every rank has filled its own part of `buffer` (see `own_part`) and gets the others'.

    Args: as `reduce_scatter`. Returns: `buffer`. Raises: as `plan`.
    """
    _call(comm, "allgather", buffer, None, algorithm=algorithm)
    return buffer


def bcast(comm: MPI.Intracomm, buffer: NDArray, root: int = 0) -> NDArray:
    """Collective: every rank gets what `root` has in its buffer. Returns: `buffer`. Raises: as `plan`."""
    _call(comm, "bcast", buffer, None, root=root)
    return buffer


def reduce(comm: MPI.Intracomm, buffer: NDArray, op: str = "sum", root: int = 0) -> NDArray:
    """Collective: `root` gets the combined buffers of all ranks in its own; those of the others hold rubbish.

    Returns: `buffer`. Raises: as `plan`.
    """
    _call(comm, "reduce", buffer, None, op, root=root)
    return buffer


def alltoall(comm: MPI.Intracomm, buffer: NDArray, out: NDArray) -> NDArray:
    """Collective: part d of rank s's `buffer` becomes part s of rank d's `out`.

    The count must be a multiple of the number of ranks. Returns: `out`. Raises: as `plan`.
    """
    _call(comm, "alltoall", buffer, out)
    return out
