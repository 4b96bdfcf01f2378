"""Plans: an agreed collective, bound to its buffers, to be run many times."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.collectives.decide import Decision
from hpcdist.collectives.facts import is_shared, places_of
from hpcdist.collectives.signature import Signature, schedule_of
from hpcdist.device import Accelerator, accelerator_of
from hpcdist.device.buffers import address_of
from hpcdist.device.paths import HOST, PEER, STAGED
from hpcdist.errors import AgreedError
from hpcdist.executor.bind import BoundProgram, boxes_for
from hpcdist.executor.intranode import bounce_layout
from hpcdist.executor.intranode.bounce_buffers import BouncedProgram
from hpcdist.executor.intranode.gpu_peer_memory import PeerMemoryProgram
from hpcdist.executor.intranode.in_place import peers_in_place
from hpcdist.executor.lifecycle import Bound
from hpcdist.executor.progress_thread import AUTO, Helped
from hpcdist.kernels.reduce import DTYPES
from hpcdist.mpi.collective_errors import raise_together
from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.schedule.program import Program
from hpcdist.schedule.reach import Reach, reach
from hpcdist.transport import Request, Transport
from hpcdist.transport.cuda_ipc import IpcTransport
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import home_of, memory_of

CACHED_BUFFERS = 4  # per cached plan
COMMON, COMMON_SMALL = -1, -2  # numbers of the bounce buffers of all one-line calls, beside the tags of plans


class Plan:
    """A collective bound to its buffers, to be run many times.

    `plan()` blocks. `plan.start()`, `plan.test()` and `plan.wait()` do not; the buffers belong to the plan in between.

    Attributes:
        algorithm: the algorithm's name, never "auto".
        segment_nbytes: bytes of a segment; of messages between nodes, if there are several.
        topology: the node of every rank, as the algorithm was told.
        accelerator: the device of the buffers; None for host memory.
        why: why this algorithm.
        schedule: what is run.
        executor: who runs it: "python", "compiled" or "gpu_streams", and inside a node also "bounce_buffers" or
            "gpu_peer_memory".
        in_shared_memory: whether an array of this rank is one of `empty`.
        path: how the data travels: "host" for NumPy arrays, else "staged", "aware" or "peer".
        why_path: why on this path.
    """

    def __init__(self, collective: Collective, buffer: NDArray, out: NDArray | None) -> None:
        """Bind, on this rank alone; `Collective` makes plans."""
        self.collective, self.key = collective, addresses_of(buffer, out)
        self.sight: Any = None  # by which a one-line call finds it at a glance
        self.last_call = 0  # of one-line calls, the number of the last that ran it
        decision = collective.decision
        self.algorithm = decision.signature.algorithm
        self.segment_nbytes = decision.segment_nbytes
        self.topology: Sequence[int] = decision.topology
        self.why, self.why_path, self.path = decision.why, decision.why_path, decision.path
        self.schedule = collective.schedule
        self.accelerator = next(filter(None, map(accelerator_of, (buffer, out))), None)
        self.in_shared_memory = any(map(memory_of, (buffer, out)))
        self.bound = collective.bound(buffer, out)
        self.checked: Callable[[], bool] | None = None  # runs it if all ranks mean this call, in one with the check
        if isinstance(self.bound, BouncedProgram) and self.bound.compares:
            self.checked = self.bound.checked
        self.executor = self.bound.executor
        self._helped = Helped(self.bound, self.topology, self.accelerator)
        tag = None if collective.number else collective.tag  # which one-line calls of a kind have together
        self._dropping = weakref.finalize(self.bound, _drop, collective.transport, tag, self.bound.requests)
        self._dropping.atexit = False
        self._closed = False
        collective.transport.plans.add(self)

    def __call__(self) -> None:
        """Run and block until the result is there."""
        self.bound()

    def start(self, progress: str = AUTO) -> None:
        """Begin a run; goes as far as it can without waiting.

        Args:
            progress: who goes on with it: "calls", that is your calls of `test` and `wait`; "thread", a thread beside
                you, which looks at it up to ten thousand times a second, and whose errors your next `test` or `wait`
                raises; or "auto", a thread if messages travel between nodes and MPI allows one, else your calls.

        Raises: ValueError if `progress` is something else; RuntimeError if the plan is running or was closed, or if MPI
        was not started with MPI_THREAD_MULTIPLE, which a thread needs.
        """
        self._helped.start(progress)

    def test(self) -> bool:
        """Go on as far as possible without waiting; whether the result is there."""
        return self._helped.test()

    def wait(self) -> None:
        """Block until the run that was begun is complete."""
        self._helped.wait()

    @property
    def running(self) -> bool:
        """Whether a run was begun and has not ended; one that failed never ends."""
        return self.bound.running

    def free(self) -> None:
        """Give up what it is bound to, on this rank alone; the plan cannot run again."""
        self._dropping.detach()
        self.collective.transport.plans.discard(self)
        self.bound.free()

    def close(self) -> None:
        """Collective: free the plan's requests and its tag. It cannot run again; to close it again does nothing.

        Raises: AgreedError, on all ranks alike, if it is still running on any.
        """
        if self._closed:
            return
        transport = self.collective.transport
        if not transport.freed:
            running = "the plan is still running and cannot be closed; call wait() first" if self.running else None
            raise_together(transport.exchange(running, "close a plan"))
            transport.return_tag(self.collective.tag)
        self._closed = True
        self.free()
        self.collective.forget_bounce_buffer()


def _drop(transport: MpiTransport, tag: int | None, requests: list[Request]) -> None:
    """Nobody refers to a plan any more: give up its messages, and tell the others when next all are asked."""
    if MPI.Is_finalized() or transport.freed:
        return
    for request in requests:
        request.free()
    if tag is not None:
        transport.dropped.add(tag)


class Collective:
    """An agreed collective of one communicator: everything of a plan but the addresses."""

    def __init__(self, transport: MpiTransport, decision: Decision, call: int = 0) -> None:
        """Collective, since it takes a tag.

        Args:
            transport: the ranks.
            decision: what is to be done, and how.
            call: of a one-line call, the number that all ranks compare before each run; so it needs no bounce buffer
                of its own. 0 for a plan.
        """
        self.transport, self.decision, self.signature = transport, decision, decision.signature
        self.dtype = np.dtype(DTYPES[self.signature.dtype])
        self.shared = is_shared(self.signature.algorithm)
        self.schedule = self._schedule()
        self._programs: dict[bool, Program] = {}  # by whether they read their input
        self.tag = transport.take_tag()
        self.number = call
        self.key: tuple = ()  # by which it is kept
        self.plans: dict[tuple[int, int], Plan] = {}
        self.last_call = 0  # of one-line calls, the number of the last that ran it
        self._inboxes: dict[str, NDArray] = {}  # by device
        self.spoiled = False  # a run was left before its end, whose messages or flags may still come

    def _elements(self, nbytes: int) -> int:
        """Elements of a segment of so many bytes."""
        return max(1, nbytes // self.dtype.itemsize)

    def _schedule(self) -> Schedule:
        if self.decision.bounced:
            return bounce_layout.schedule(self.transport.size, self.signature.count * self.dtype.itemsize)
        return schedule_of(self.signature, self.transport.size, self.decision.topology)

    @cached_property
    def _reach(self) -> Reach:
        """The ranks whose memory this one reaches."""
        if not self.shared:
            return Reach()
        everybody, nodes, rank = range(self.transport.size), self.decision.topology, self.transport.rank
        if self.decision.path == HOST:
            return reach(self.schedule, [other for other in everybody if nodes[other] == nodes[rank]])
        return reach(self.schedule, everybody)

    def program(self, reads_input: bool) -> Program:
        """What this rank does."""
        if reads_input not in self._programs:
            self._programs[reads_input] = self._lowered(reads_input)
        return self._programs[reads_input]

    def _lowered(self, reads_input: bool) -> Program:
        schedule, count = self.schedule, self.signature.count
        layout = Layout.near_equal(schedule, count, count if schedule.input_chunks else 0)
        topology, rank = self.transport.topology, self.transport.rank
        between, inside = map(self._elements, (self.decision.segment_nbytes, self.decision.node_segment_nbytes))
        segments = [inside if node == topology[rank] else between for node in topology]
        return lower(
            schedule,
            rank,
            layout,
            segments,
            staged=self.decision.path == STAGED,
            average=self.signature.op == "avg",
            reachable=self._reach,
            reads_input=reads_input,
        )

    def _inbox(self, program: Program, buffer: NDArray, device: Accelerator | None) -> NDArray:
        """Memory for messages, for all bindings of the program to buffers on the same device."""
        key = device.identity if device else HOST
        if key not in self._inboxes:
            self._inboxes[key] = boxes_for(program, buffer.dtype, device)
        return self._inboxes[key]

    @cached_property
    def bounce_buffer(self) -> NDArray[np.uint8]:
        """That of all bindings; collective at the first of them."""
        nbytes = self.signature.count * self.dtype.itemsize
        wanted = bounce_buffers_for(nbytes) if self.number else {self.tag: bounce_layout.nbytes_for(nbytes)}
        return home_of(self.transport).bounce_buffers(wanted)[-1]

    def forget_bounce_buffer(self) -> None:
        """Refer to it no longer, so that it may be given back."""
        self.__dict__.pop("bounce_buffer", None)

    def bound(self, buffer: NDArray, out: NDArray | None) -> Bound:
        """What runs it on these arrays."""
        op, tag, transport = self.signature.op, self.tag, self.transport
        result = buffer if out is None else out
        if self.decision.bounced:
            bounced = BouncedProgram(self.schedule, transport, buffer, result, op, self.bounce_buffer)
            bounced.number(self.number)
            return bounced
        device = accelerator_of(buffer)
        if self.shared and device:
            return PeerMemoryProgram(self.program(out is not None), transport, buffer, result, op, tag)
        program = self.program(self.shared and out is not None and memory_of(buffer) is not None)
        source = buffer if program.reads_input or self.schedule.input_chunks else None
        return BoundProgram(
            program,
            self.carrier(device),
            result,
            source=source,
            copy_from=buffer if out is not None and source is None else None,
            op=op,
            tag=tag,
            inbox=self._inbox(program, buffer, device),
            accelerator=device,
            peers=peers_in_place(transport, program.reachable, tag, result, source) if self.shared else None,
        )

    def carrier(self, device: Accelerator | None) -> Transport:
        """How messages travel."""
        if device and self.decision.path == PEER:
            return IpcTransport(self.transport, device)
        return self.transport

    def bind_together(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """Collective: the first plan; if one rank cannot bind, none does.

        Raises: AgreedError, on all ranks alike.
        """
        plan, trouble = None, None
        try:
            if self.shared and self.decision.path == HOST and not self.decision.bounced:
                home_of(self.transport).flag(self.tag).fill(0)  # which the last plan of this tag left apart on nodes
            plan = Plan(self, buffer, out)
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

    def plan_for(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """The plan for these addresses, which only this rank knows."""
        key = addresses_of(buffer, out)
        if key in self.plans:
            return self.plans[key]
        if len(self.plans) == CACHED_BUFFERS:
            self._drop(min(self.plans, key=lambda each: self.plans[each].last_call))
        self.plans[key] = Plan(self, buffer, out)
        return self.plans[key]

    def _drop(self, key: tuple[int, int]) -> None:
        """Free a binding of this rank."""
        plan = self.plans.pop(key)
        self.transport.seen.pop(plan.sight, None)
        self.spoiled = self.spoiled or plan.running
        plan.free()

    def forget_shared(self) -> None:
        """Drop the bindings of this rank to arrays of `empty`, in which the others do not work."""
        for key in [key for key, plan in self.plans.items() if plan.in_shared_memory]:
            self._drop(key)

    def free(self) -> None:
        """Collective: drop all bindings and the tag, which nobody uses again if a run failed on any rank."""
        for key in list(self.plans):
            self._drop(key)
        if not any(self.transport.exchange(self.spoiled, "drop a plan")):
            self.transport.return_tag(self.tag)


def own_bounce_buffer(
    transport: MpiTransport, signature: Signature, buffer: NDArray, out: NDArray | None
) -> dict[int, int]:
    """Bytes of the bounce buffer that a plan would have, by its number; none if the call could use none."""
    if places_of(signature.call, signature.algorithm, buffer, out) is None:
        return {}
    return {transport.coming_tag: bounce_layout.nbytes_for(buffer.nbytes)}


def bounce_buffers_for(nbytes: int) -> dict[int, int]:
    """Bytes of the bounce buffers that one-line calls need, by their numbers; the last one is for `nbytes`."""
    small = {COMMON_SMALL: bounce_layout.nbytes_for(0)}
    return small if nbytes <= bounce_layout.SMALL else {**small, COMMON: bounce_layout.nbytes_for(nbytes)}


def addresses_of(buffer: NDArray, out: NDArray | None) -> tuple[int, int]:
    """What tells the bindings of a collective apart."""
    return address_of(buffer), -1 if out is None else address_of(out)
