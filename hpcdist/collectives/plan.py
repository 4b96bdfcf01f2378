"""Plans: an agreed collective, bound to its buffers, to be run many times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.collectives.decide import Decision, is_shared
from hpcdist.collectives.signature import address_of, schedule_of
from hpcdist.device import Accelerator, accelerator_of
from hpcdist.device.paths import DIRECT, HOST, STAGED
from hpcdist.errors import AgreedError
from hpcdist.executor.bind import BoundProgram, boxes_for
from hpcdist.executor.intranode.bounce_buffers import BouncedProgram, room_of
from hpcdist.executor.intranode.gpu_peer_memory import DirectProgram
from hpcdist.executor.intranode.in_place import SharedProgram, Task
from hpcdist.executor.progress_thread import AUTO, Helped
from hpcdist.schedule.ir import Layout
from hpcdist.schedule.program import Program, lower
from hpcdist.transport import Transport
from hpcdist.transport.cuda_ipc import IpcTransport
from hpcdist.transport.mpi import MpiTransport, raise_together
from hpcdist.transport.shared_memory import memory_of
from hpcdist.tuning import table

CACHED_BUFFERS = 4  # per cached plan
COMMON_ROOM = -1  # the number of a bounce buffer, beside the tags


class Plan(ABC):
    """A collective bound to its buffers, to be run many times.

    `plan()` blocks. `plan.start()`, `plan.test()` and `plan.wait()` do not; the buffers belong to the plan in between.

    Attributes:
        algorithm: the algorithm's name, never "auto".
        segment_nbytes: bytes of a segment; of messages between nodes, if there are several.
        topology: the node of every rank, as the algorithm was told.
        accelerator: the device of the buffers; None for host memory.
        why: why this algorithm.
        schedule: what is run.
        in_shared_memory: whether an array of this rank is one of `empty`.
        path: how the data travels: "host" for NumPy arrays, else "staged", "aware" or "direct".
        why_path: why on this path.
    """

    topology: Sequence[int]

    def _tell(self, collective: Collective, buffer: NDArray, out: NDArray | None) -> None:
        self.collective, self.key = collective, addresses_of(buffer, out)
        self.sight: Any = None  # by which a one-line call finds it at a glance
        self.accelerator = next(filter(None, map(accelerator_of, (buffer, out))), None)
        self.in_shared_memory = any(map(memory_of, (buffer, out)))
        self._closed = False
        decision = collective.decision
        self.algorithm = decision.signature.algorithm
        self.segment_nbytes = decision.segment_nbytes
        self.topology = decision.topology
        self.why = decision.why
        self.path, self.why_path = decision.path, decision.why_path
        self.schedule = collective.schedule

    @abstractmethod
    def __call__(self) -> None:
        """Run and block until the result is there."""

    @abstractmethod
    def start(self, progress: str = AUTO) -> None:
        """Begin a run; goes as far as it can without waiting.

        Args:
            progress: who goes on with it: "calls", that is your calls of `test` and `wait`; "thread", a thread beside
                you, which looks at it up to ten thousand times a second, and whose errors your next `test` or `wait`
                raises; or "auto", a thread if messages travel between nodes and MPI allows one, else your calls.

        Raises: ValueError if `progress` is something else; RuntimeError if the plan is running or was closed, or if MPI
        was not started with MPI_THREAD_MULTIPLE, which a thread needs.
        """

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
        transport = self.collective.transport
        if not transport.freed:
            running = "the plan is still running and cannot be closed; call wait() first" if self.running else None
            raise_together(transport.exchange(running, "close a plan"))
            transport.return_tag(self.collective.tag)
        self._closed = True
        self.free()
        self.collective.forget_room()


class _MessagePlan(Helped, BoundProgram, Plan):
    """A plan that sends messages."""

    def __init__(self, collective: Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._tell(collective, buffer, out)
        device = accelerator_of(buffer)
        super().__init__(
            collective.program,
            collective.carrier(device),
            buffer if out is None else out,
            **collective.sources(buffer, out),
            op=collective.signature.op,
            tag=collective.tag,
            inbox=collective.inbox(buffer, device),
            accelerator=device,
        )


class _SharedPlan(Helped, SharedProgram, Plan):
    """A plan whose ranks work in each other's host memory."""

    def __init__(self, collective: Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._tell(collective, buffer, out)
        super().__init__(collective.task, collective.transport, buffer, buffer if out is None else out)


class _BouncedPlan(Helped, BouncedProgram, Plan):
    """A plan whose arrays pass through memory that ranks share."""

    def __init__(self, collective: Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._tell(collective, buffer, out)
        result = buffer if out is None else out
        super().__init__(collective.task, collective.transport, buffer, result, collective.room)


class _DirectPlan(Helped, DirectProgram, Plan):
    """A plan whose ranks work in each other's device memory."""

    def __init__(self, collective: Collective, buffer: NDArray, out: NDArray | None) -> None:
        self._tell(collective, buffer, out)
        super().__init__(collective.task, collective.transport, buffer, buffer if out is None else out)


class Collective:
    """An agreed collective of one communicator: everything of a plan but the addresses."""

    def __init__(self, transport: MpiTransport, decision: Decision, own_room: bool = True) -> None:
        """Collective, since it takes a tag.

        Args:
            transport: the ranks.
            decision: what is to be done, and how.
            own_room: whether it needs a bounce buffer of its own; not if all ranks meet before each of its runs.
        """
        self.transport, self.decision, self.signature = transport, decision, decision.signature
        self.dtype = np.dtype(table.DTYPES[self.signature.dtype])
        self.schedule = schedule_of(self.signature, transport.size, decision.topology)
        self.shared = is_shared(self.signature.algorithm)
        self.tag = transport.take_tag()
        self._room_number = self.tag if own_room else COMMON_ROOM
        self.number = -1  # of a one-line call: what all ranks said
        self.key: tuple = ()  # by which it is kept
        self.plans: OrderedDict[tuple[int, int], Plan] = OrderedDict()
        self._inboxes: dict[str, NDArray] = {}  # by device
        self.spoiled = False  # a run was left before its end, whose messages or flags may still come

    def _elements(self, nbytes: int) -> int:
        """Elements of a segment of so many bytes."""
        return max(1, nbytes // self.dtype.itemsize)

    @cached_property
    def program(self) -> Program:
        """What this rank does, in messages."""
        schedule, count = self.schedule, self.signature.count
        layout = Layout.near_equal(schedule, count, count if schedule.input_chunks else 0)
        topology, rank = self.transport.topology, self.transport.rank
        between, inside = map(self._elements, (self.decision.segment_nbytes, self.decision.node_segment_nbytes))
        segments = [inside if node == topology[rank] else between for node in topology]
        return lower(schedule, rank, layout, segments, staged=self.decision.path == STAGED)

    def inbox(self, buffer: NDArray, device: Accelerator | None) -> NDArray:
        """Memory for messages, for all bindings of the program to buffers on the same device."""
        key = device.identity if device else HOST
        if key not in self._inboxes:
            self._inboxes[key] = boxes_for(self.program, buffer.dtype, device)
        return self._inboxes[key]

    @property
    def task(self) -> Task:
        """What this rank does in shared memory."""
        segment = self._elements(self.decision.segment_nbytes)
        return Task(self.schedule, self.decision.topology, self.signature.op, self.tag, segment)

    @cached_property
    def room(self) -> NDArray[np.uint8]:
        """The bounce buffer of all bindings; collective at the first of them."""
        return room_of(self.transport, self._room_number, self.signature.count * self.dtype.itemsize)

    def forget_room(self) -> None:
        """Refer no longer to the bounce buffer, which may then be given back."""
        self.__dict__.pop("room", None)

    def bind(self, buffer: NDArray, out: NDArray | None) -> Plan:
        """A plan for these arrays."""
        if not self.shared:
            return _MessagePlan(self, buffer, out)
        if self.decision.path != HOST:
            return _DirectPlan(self, buffer, out)
        return (_BouncedPlan if self.decision.bounced else _SharedPlan)(self, buffer, out)

    def carrier(self, device: Accelerator | None) -> Transport:
        """How messages travel."""
        if device and self.decision.path == DIRECT:
            return IpcTransport(self.transport, device)
        return self.transport

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
        key = addresses_of(buffer, out)
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


def addresses_of(buffer: NDArray, out: NDArray | None) -> tuple[int, int]:
    """What tells the bindings of a collective apart."""
    return address_of(buffer), -1 if out is None else address_of(out)
