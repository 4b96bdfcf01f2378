"""The calls: all-reduce and its relatives over an MPI communicator, each as a plan or in one line.

Every call is collective: all ranks of the communicator make the same calls in the same order. What ranks must agree
on (count, dtype, op, algorithm) is compared before any data moves, and all ranks raise alike if it differs.
"""

from __future__ import annotations

import gc
import math
import operator
import os
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import DTypeLike, NDArray

from hpcdist import algorithms, selection
from hpcdist.agreement import (
    Signature,
    agree_on,
    problem_of,
    problem_of_buffers,
    same_everywhere,
    schedule_of,
    signature_of,
)
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.execute import BoundProgram
from hpcdist.program import Program, lower
from hpcdist.schedule import Layout
from hpcdist.shared import SharedProgram, Task
from hpcdist.sizes import format_bytes
from hpcdist.transport.mpi import MpiTransport, raise_together, transport_of
from hpcdist.transport.window import NOBODY, Place, home_of, memory_of, obstacle, place_of

SEGMENT = 1 << 22  # bytes of a segment unless told otherwise; networks like smaller ones, which a sweep finds
LARGEST_MESSAGE = 1 << 30  # bytes; MPI counts of many libraries end at 2**31 - 1
CACHED_PLANS = 64  # per communicator, for the one-line calls
CACHED_BUFFERS = 4  # per cached plan

LEAST_WITHOUT_FLAGS = 1 << 13  # bytes; less is better sent, unless waiting is compiled
NOT_ASKED = "the call is none that could use it"

Places = tuple[Place | None, Place | None]  # of the result, and of the input if that is another array
Table = selection.Selection | str | os.PathLike[str] | None


class Plan(ABC):
    """A collective bound to its buffers, to be run many times.

    `plan()` blocks. `plan.start()`, `plan.test()` and `plan.wait()` do not; the buffers belong to the plan in between.

    Attributes:
        algorithm: the algorithm's name, never "auto".
        segment_nbytes: bytes of a segment.
        topology: the node of every rank, as the algorithm was told.
        why: why this algorithm.
        schedule: what is run.
        in_shared_memory: whether an array of this rank is one of `empty`.
    """

    def _tell(self, collective: _Collective, *arrays: NDArray | None) -> None:
        self._collective = collective
        self.in_shared_memory = any(map(memory_of, arrays))
        self._closed = False
        self.algorithm = collective.signature.algorithm
        self.segment_nbytes = collective.segment_nbytes
        self.topology = collective.topology
        self.why = collective.why
        self.schedule = collective.schedule

    @abstractmethod
    def __call__(self) -> None:
        """Run and block until the result is there."""

    @abstractmethod
    def start(self) -> None:
        """Begin a run; goes as far as it can without waiting."""

    @abstractmethod
    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""

    @abstractmethod
    def wait(self) -> None:
        """Block until the run that was begun is complete."""

    @property
    @abstractmethod
    def running(self) -> bool:
        """Whether a run was begun and has not ended."""

    @abstractmethod
    def free(self) -> None:
        """Give up what it is bound to; the plan cannot run again."""

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


class _MessagePlan(BoundProgram, Plan):
    """A plan that sends messages."""

    def __init__(self, collective: _Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._tell(collective, buffer, out)
        super().__init__(
            collective.program,
            collective.transport,
            buffer if out is None else out,
            **collective.sources(buffer, out),
            op=collective.signature.op,
            tag=collective.tag,
            inbox=collective.inbox,
        )


class _SharedPlan(SharedProgram, Plan):
    """A plan whose ranks work in each other's buffers."""

    def __init__(self, collective: _Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._tell(collective, buffer, out)
        super().__init__(collective.task, collective.transport, buffer, buffer if out is None else out)


class _Collective:
    """An agreed collective of one communicator: everything of a plan but the addresses."""

    def __init__(
        self, transport: MpiTransport, signature: Signature, table: Table, hindrance: str | None = NOT_ASKED
    ) -> None:
        """Collective. `hindrance`: why the ranks cannot work in each other's buffers, or None if they can."""
        self.transport = transport
        self.topology = transport.topology if signature.topology is None else signature.topology
        self.signature, segment, self.why = _choose(transport, signature, self.topology, table, hindrance)
        self.segment_nbytes = min(segment or LARGEST_MESSAGE, LARGEST_MESSAGE) if segment is not None else SEGMENT
        self.dtype = np.dtype(selection.DTYPES[signature.dtype])
        self.schedule = schedule_of(self.signature, transport.size, self.topology)
        self.shared = _is_shared(self.signature.algorithm)
        self.tag = transport.take_tag()
        self.number = -1  # of what all ranks said when it was made
        self.plans: OrderedDict[tuple[int, int], Plan] = OrderedDict()
        self._spoiled = False  # a binding was dropped whose messages or flags may still come

    @property
    def _segment(self) -> int:
        """Elements of a segment."""
        return max(1, self.segment_nbytes // self.dtype.itemsize)

    @cached_property
    def program(self) -> Program:
        """What this rank does, in messages."""
        schedule, count = self.schedule, self.signature.count
        layout = Layout.near_equal(schedule, count, count if schedule.input_chunks else 0)
        return lower(schedule, self.transport.rank, layout, self._segment)

    @cached_property
    def inbox(self) -> NDArray:
        """Memory for messages, for all bindings of the program."""
        return np.empty(self.program.inbox, self.dtype)

    @property
    def task(self) -> Task:
        """What this rank does in shared memory."""
        return Task(self.schedule, self.topology, self.signature.op, self.tag, self._segment)

    def bind(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """A plan for these arrays."""
        return (_SharedPlan if self.shared else _MessagePlan)(self, buffer, out)

    def bind_together(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """Collective: the first plan; if one rank cannot bind, none does.

        Raises: AgreedError, on all ranks alike.
        """
        plan, trouble = None, None
        try:
            plan = self.bind(buffer, out)
        except AgreedError:
            self.transport.return_tag(self.tag)
            raise
        except Exception as error:
            trouble = error
        said = None if trouble is None else f"the buffers cannot be bound: {type(trouble).__name__}: {trouble}"
        problems = self.transport.exchange(said, "bind a plan")
        if any(problems):
            if plan:
                plan.free()
            self.transport.return_tag(self.tag)
            try:
                raise_together(problems)
            except AgreedError as agreed:
                raise agreed from trouble
        return plan  # type: ignore[return-value]  # it is None only where there is a problem

    def sources(self, buffer: NDArray, out: NDArray | None) -> dict[str, NDArray]:
        """How a result that goes elsewhere is reached: from a copy, or from an input of its own."""
        if out is None:
            return {}
        return {"source": buffer} if self.schedule.input_chunks else {"copy_from": buffer}

    def plan_for(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """The plan for these addresses, which only this rank knows."""
        key = _addresses(buffer, out)
        if key in self.plans:
            self.plans.move_to_end(key)
            return self.plans[key]
        if len(self.plans) == CACHED_BUFFERS:
            self._drop(next(iter(self.plans)))
        self.plans[key] = self.bind(buffer, out)
        return self.plans[key]

    def _drop(self, key: tuple[int, int]) -> None:
        """Free a binding of this rank."""
        plan = self.plans.pop(key)
        self._spoiled = self._spoiled or plan.running
        plan.free()

    def forget_shared(self) -> None:
        """Drop the bindings of this rank that send messages from arrays in shared memory."""
        for key in [key for key, plan in self.plans.items() if plan.in_shared_memory]:
            self._drop(key)

    def free(self) -> None:
        """Collective: drop all bindings and the tag, which nobody uses again if a run failed on any rank."""
        for key in list(self.plans):
            self._drop(key)
        if not any(self.transport.exchange(self._spoiled, "drop a plan")):
            self.transport.return_tag(self.tag)


def _addresses(buffer: NDArray, out: NDArray | None) -> tuple[int, int]:
    """What tells the bindings of a collective apart."""
    return _address(buffer), -1 if out is None else _address(out)


def _address(array: NDArray) -> int:
    return array.__array_interface__["data"][0]


def _is_shared(algorithm: object) -> bool:
    return str(algorithm).partition(":")[0] == algorithms.SHARED


def _choose(
    transport: MpiTransport, signature: Signature, topology: Sequence[int], table: Table, hindrance: str | None
) -> tuple[Signature, int | None, str]:
    """Collective: which algorithm is meant; (signature, segment bytes or None, why)."""
    name, segment, why = signature.algorithm, signature.segment_nbytes, "it was asked for"
    if name == "auto" and not hindrance:
        hindrance = _too_small(transport, signature)
    if name == "auto" and not hindrance and len(set(topology)) == 1 < len(topology):
        name, why = algorithms.SHARED, "all ranks share the memory of the buffers"
    elif name == "auto":
        choice = _choose_by_table(transport, signature, topology, table)
        name, why = _in_memory(choice, hindrance)
        segment = choice.segment_nbytes if segment is None else segment
    if _is_shared(name) and hindrance:
        raise ArgumentError(
            f"algorithm={name!r} works in memory that the ranks of a node share, but {hindrance}. Make the buffers "
            "with hpcdist.empty(shape, dtype, comm) on all ranks, or name another algorithm."
        )
    return replace(signature, algorithm=name), segment, why


def _too_small(transport: MpiTransport, signature: Signature) -> str | None:
    """Why messages are faster though the ranks could work in each other's buffers, or None."""
    nbytes = signature.count * selection.DTYPES[signature.dtype].itemsize
    if nbytes >= LEAST_WITHOUT_FLAGS or home_of(transport).flags:
        return None
    return f"{format_bytes(nbytes)} are faster in messages than where ranks wait for each other without Numba's flags"


def _in_memory(choice: selection.Choice, hindrance: str | None) -> tuple[str, str]:
    """(algorithm, why): hierarchical becomes shared where ranks of a node can work in each other's buffers."""
    family, _, parts = choice.algorithm.partition(":")
    if hindrance:
        said = hindrance not in (NOT_ASKED, NOBODY)
        return choice.algorithm, f"{choice.why}; not in shared memory: {hindrance}" if said else choice.why
    if family != "hierarchical":
        return choice.algorithm, f"{choice.why}; so shared memory inside a node is of no use"
    outer = parts.partition("+")[2]
    name = f"{algorithms.SHARED}:{outer}" if outer else algorithms.SHARED
    return name, f"{choice.why}; inside a node in shared memory, as the buffers are"


def _choose_by_table(
    transport: MpiTransport, signature: Signature, topology: Sequence[int], table: Table
) -> selection.Choice:
    """Collective: what "auto" means, decided by rank 0 for all."""
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
    return choice


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
        algorithm: a name from `hpcdist.algorithms.ALLREDUCE`, "hierarchical:INNER+OUTER", "shared" or "shared:OUTER"
            for arrays of `empty`, or "auto".
        op: "sum", "max", "min", "prod" or "avg" (the sum divided by the number of ranks; integers toward zero).
        segment_nbytes: bytes of the pieces in which a message travels while others are reduced; 0 for whole messages,
            None for the table's or the default.
        topology: the node of each rank; found out from MPI if None.
        selection: the table that "auto" reads, or its path; None for HPCDIST_SELECTION, and without that the price
            model.

    Raises, on all ranks alike:
        ArgumentError: if a rank's argument cannot be used or the ranks do not agree.
        AgreedError: if a rank cannot bind its buffers, for want of memory or of what HPCDIST_COMPILED=1 asks for.
    """
    transport = transport_of(comm)
    nodes, no_topology = _node_numbers(topology)
    signature = signature_of(
        "allreduce",
        buffer,
        op,
        algorithm,
        segment_nbytes=segment_nbytes,
        topology=nodes,
    )
    problem = no_topology or problem_of(signature, transport, buffer, out)
    places = agree_on(transport, signature, problem, _places("allreduce", algorithm, buffer, out))
    hindrance = _hindrance(transport, signature, buffer if out is None else out, places)
    return _Collective(transport, signature, selection, hindrance).bind_together(buffer, out)


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
    _forget_shared(transport)
    nbytes = math.prod(sizes) * element.itemsize
    memory = home_of(transport).allocate(nbytes, f"an array of {format_bytes(nbytes)}")
    return memory.view(element).reshape(sizes)


def release(comm: MPI.Intracomm) -> int:
    """Collective: give back the memory of arrays made by `empty` on `comm` to which no rank refers any more.

    Delete what refers to them first (`del x`); a plan refers to its arrays until it is closed.

    Returns: bytes given back on this rank.
    """
    transport = transport_of(comm)
    _forget_shared(transport)
    gc.collect()
    transport.exchange(None, "release arrays")
    return home_of(transport).collect()


def _shape_and_dtype(shape: Any, dtype: Any) -> tuple[tuple[int, ...], np.dtype, str | None]:
    """The arguments of `empty` as what they should be, and what is wrong with them."""
    try:
        sizes = tuple(map(operator.index, shape)) if isinstance(shape, Iterable) else (operator.index(shape),)
        element = np.dtype(dtype)
    except TypeError as error:
        return (0,), np.dtype(np.uint8), f"shape {shape!r:.60} and dtype {dtype!r:.60} make no array: {error}"
    if any(size < 0 for size in sizes):
        return sizes, element, f"the shape {sizes} has a negative size"
    if element not in selection.DTYPES.values():
        return sizes, element, f"dtype {element} is not supported; choose from {', '.join(selection.DTYPES)}"
    return sizes, element, None


def _forget_shared(transport: MpiTransport) -> None:
    """Collective: drop the cached plans that keep arrays of `empty` alive."""
    for key, collective in list(transport.cache.items()):
        if collective.shared:
            transport.cache.pop(key).free()
        else:
            collective.forget_shared()


def _places(call: str, algorithm: str, buffer: NDArray, out: NDArray | None) -> Places | None:
    """Where result and input of an all-reduce lie in shared memory, if that is of interest."""
    if call != "allreduce" or not (algorithm == "auto" or _is_shared(algorithm)):
        return None
    return (place_of(buffer), None) if out is None else (place_of(out), place_of(buffer))


def _hindrance(
    transport: MpiTransport, signature: Signature, result: NDArray, places: Sequence[Places | None]
) -> str | None:
    """Why the ranks cannot work in each other's buffers, or None if they can; the same on all ranks."""
    known = [place for place in places if place is not None]
    if not known:
        return NOT_ASKED
    topology = transport.topology if signature.topology is None else signature.topology
    results, inputs = zip(*known, strict=True)
    if any(results) and len(set(inputs)) > 1:
        return "the ranks' inputs do not lie at the same place of the same array of hpcdist.empty, or all elsewhere"
    return obstacle(transport, result, results, topology)


# --- one-line calls ---


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
    places = _places(call, algorithm, buffer, out)
    what = (call, getattr(buffer, "size", -1), getattr(buffer, "dtype", None), str(op), str(algorithm), str(root))
    key: tuple = (*what, places)
    known = cache.get(key)
    if known:
        problem = None if out is None and _is_plain(call, buffer) else problem_of_buffers(call, buffer, out)
        number = known.number
    else:
        signature = signature_of(call, buffer, op, algorithm, root=root)
        problem = problem_of(signature, transport, buffer, out)
        number = signature.number(places)
    said = [places] * transport.size
    if not same_everywhere(transport, -1 if problem else number) or problem:
        signature = signature_of(call, buffer, op, algorithm, root=root)
        said = agree_on(transport, signature, problem, places)
        key = (*what, "at different places")  # all that can differ here
        known = cache.get(key)
    if known is None:
        if len(cache) == CACHED_PLANS:
            cache.popitem(last=False)[1].free()
        hindrance = _hindrance(transport, signature, buffer if out is None else out, said)
        known = _Collective(transport, signature, None, hindrance)
        known.number = number
        known.plans[_addresses(buffer, out)] = known.bind_together(buffer, out)
        cache[key] = known
    cache.move_to_end(key)
    known.plan_for(buffer, out)()


def _is_plain(call: str, buffer: NDArray) -> bool:
    """A quick look at the usual case, in place: true only if `problem_of_buffers` has nothing to say either."""
    return type(buffer) is np.ndarray and buffer.flags.c_contiguous and buffer.flags.writeable and call != "alltoall"


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
