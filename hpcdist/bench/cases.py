"""The cases of one size on the ranks of an MPI job: made, checked, timed in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from mmap import PAGESIZE
from typing import Any, Self

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.bench.alone.harness import Case, Numbers, OfMpi, Turns, fill
from hpcdist.bench.links import Neighbours
from hpcdist.bench.ratios import link_bytes
from hpcdist.bench.task import ADDRESSED, AUTO, CALL, COPY, KINDS, LIBRARY, RAW, REGISTERED, Task
from hpcdist.bench.values import numbers_of
from hpcdist.collectives import calls
from hpcdist.collectives.plan import Plan
from hpcdist.errors import AgreedError
from hpcdist.kernels.reduce import DTYPES
from hpcdist.mpi.collective_errors import on_all
from hpcdist.simulate import cost
from hpcdist.sweep.record import segment_name
from hpcdist.tuning.table import Selection


@dataclass(frozen=True)
class Prices:
    """The price model that was fitted to the ranks, and the node, or rack, of each."""

    topology: Sequence[int]
    model: cost.Model

    def us(self, plan: Plan, nbytes: int) -> float:
        """Microseconds that the model foresees."""
        return 1e6 * cost.predict(plan.schedule, nbytes, self.model, tuple(self.topology))


class Size(Turns):
    """All cases of a task at one size, on the same buffers: a context that closes them. All methods are collective.

    Args:
        comm: the ranks.
        nbytes: of a buffer of float32.
        task: with the names of the cases.
        neighbours: raw TCP, where the task has a link.
        prices: by which "auto" goes, where the task says so.
    """

    def __init__(
        self, comm: MPI.Intracomm, nbytes: int, task: Task, neighbours: Neighbours | None, prices: Prices | None = None
    ) -> None:
        super().__init__(OfMpi(comm, neighbours.exchange if neighbours else None), nbytes, task)
        self.comm, self.neighbours = comm, neighbours
        self.how: dict[str, Any] = (
            {"topology": prices.topology, "selection": Selection((), prices.model)} if prices else {}
        )
        self.count = max(1, nbytes // 4)
        self.arrays: dict[tuple[str, bool], NDArray] = {}
        self.pages: dict[str, NDArray[np.uint8]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        # After an error of this rank alone the others are elsewhere, and would never come to close.
        if kind is None or issubclass(kind, AgreedError):
            self.close()

    def prepare(self) -> None:
        """Make all cases; this and `check` raise AgreedError on all ranks, if one has no room."""
        for name in self.task.cases:
            self.cases.append(self._case(name))

    def _case(self, name: str) -> Case:
        if name in KINDS:
            dtype, kind = KINDS[name]
            return self._plan(name, dtype, kind == REGISTERED)
        if name in ADDRESSED:
            return self._addressed(name, *ADDRESSED[name])
        if name in (AUTO, REGISTERED):
            return self._plan(name, "float32", name == REGISTERED)
        array, numbers = self._array("float32", False), self._numbers("float32")
        if name == RAW:
            return Case(name, self._raw(), numbers)
        if name == COPY:
            target = on_all(self.comm, lambda: np.ones_like(array))
            return Case(name, partial(np.copyto, target, array), numbers, array, target, copies=True)
        ways: dict[str, Callable[[], object]] = {
            # The type is named, or mpi4py would look for it in each call.
            LIBRARY: partial(self.comm.Allreduce, MPI.IN_PLACE, [array, MPI.FLOAT]),
            CALL: partial(calls.allreduce, self.comm, array),
        }
        return (
            Case(name, ways[name], numbers, array, array) if name in ways else self._plan(name, "float32", False, name)
        )

    def _plan(self, name: str, dtype: str, registered: bool, algorithm: str = "auto") -> Case:
        array = self._array(dtype, registered)
        plan = calls.plan(self.comm, array, algorithm=algorithm, **self.how)
        return Case(name, plan, self._numbers(dtype), array, array, plan=plan)

    def _array(self, dtype: str, registered: bool) -> NDArray:
        """The array of a type and kind, its pages touched."""
        key = dtype, registered
        if key not in self.arrays:
            make = partial(np.empty, self.count, DTYPES[dtype])
            self.arrays[key] = (
                calls.empty(self.count, DTYPES[dtype], self.comm) if registered else on_all(self.comm, make)
            )
            fill(self.arrays[key], self._numbers(dtype).small)
        return self.arrays[key]

    def _addressed(self, name: str, case: str, offsets: tuple[int, int | None]) -> Case:
        """The library's or ours on arrays at these offsets; all addresses lie in the same pages."""
        source, target = offsets
        array = self._at("source", source)
        out = array if target is None else self._at("target", target)
        numbers = self._numbers("float32")
        if case == LIBRARY:
            given = MPI.IN_PLACE if out is array else [array, MPI.FLOAT]
            return Case(name, partial(self.comm.Allreduce, given, [out, MPI.FLOAT]), numbers, array, out)
        plan = calls.plan(self.comm, array, None if out is array else out)
        return Case(name, plan, numbers, array, out, plan=plan)

    def _at(self, pages: str, offset: int) -> NDArray[np.float32]:
        """An array that begins so many bytes behind the beginning of a page."""
        if pages not in self.pages:
            self.pages[pages] = on_all(self.comm, lambda: np.empty(4 * self.count + 2 * PAGESIZE, np.uint8))
        begin = -self.pages[pages].ctypes.data % PAGESIZE + offset
        return self.pages[pages][begin : begin + 4 * self.count].view(np.float32)

    def _numbers(self, dtype: str) -> Numbers:
        return numbers_of(self.comm.rank, self.comm.size, dtype)

    def _raw(self) -> Callable[[], object]:
        assert self.neighbours
        nbytes = round(link_bytes(self.comm.size, self.nbytes))
        return partial(self.neighbours.exchange, nbytes)

    def close(self) -> None:
        """Close the plans, and give back what ranks share."""
        for case in self.cases:
            if case.plan:
                case.plan.close()
        self.cases.clear()
        self.arrays.clear()
        self.pages.clear()
        calls.release(self.comm)


def chosen(cases: Sequence[Case]) -> str:
    """What "auto" took, with its segment, where ours was measured."""
    plan = next((case.plan for case in cases if case.name in (AUTO, *ADDRESSED) and case.plan), None)
    return f"{plan.algorithm}/{segment_name(plan.segment_nbytes)}" if plan else ""
