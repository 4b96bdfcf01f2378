"""The all-reduce algorithms of the MPI library itself, each measured by itself, under names such as "library:ring".

A library has several and chooses among them; a rule file can make it choose otherwise (see `hpcdist export`). Both
Open MPI and MPICH let the choice be forced while they run, through control variables:

- Open MPI's component "tuned" looks when a communicator is made. So each algorithm gets a duplicate of its own, with
  the component raised above those that know no algorithms, such as "han" on several nodes.
- MPICH looks at each call. So the variable is set around a sample. What its device would do instead is kept out, such
  as a hierarchy of nodes or shared memory: neither knows these algorithms.

The name "library:auto" is the library's own choice among these algorithms, which a file can leave to it, too. What it
does with nothing set may be something else, as above: that is `record.LIBRARY`.

A second look comes from floating-point sums, whose bits tell in which order an algorithm adds: a library that adds
alike whatever is chosen does not obey, and is refused.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
from mpi4py import MPI

from hpcdist.mpi.collective_errors import agree
from hpcdist.mpi.cvars import Control, setting
from hpcdist.sweep.record import FIXED

AUTO = "auto"
HIGHEST = 100  # the highest priority of a component that Open MPI knows
SEGMENT = 1 << 20  # bytes, with which Open MPI's own decisions run its segmented ring


@dataclass(frozen=True)
class Forced:
    """Where and how an all-reduce runs by one algorithm: on `comm`, inside of a context that `chosen` makes."""

    comm: MPI.Intracomm
    chosen: Callable[[], AbstractContextManager[object]] = nullcontext
    segment_nbytes: int | None = None


class Library(ABC):
    """The algorithms of an MPI library. All is collective."""

    names: tuple[str, ...]

    def segments(self, name: str, asked: Sequence[int | None]) -> Sequence[int | None]:
        """Of the segments asked for, those in which this algorithm can run; (None,) if it knows none."""
        return (None,)

    @abstractmethod
    def forced(self, name: str, segment_nbytes: int | None = None) -> Forced:
        """The algorithm of that name, in segments of so many bytes if it knows any."""

    def close(self) -> None:  # noqa: B027, not all have made something
        """Give up what was made for them."""


class OpenMpi(Library):
    """The algorithms of Open MPI's component "tuned".

    Raises:
        LookupError: if it lacks a control variable.
        ValueError: if a rule file is in force.
    """

    SEGMENTED = "segmented_ring"

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm
        self.dynamic = Control("coll_tuned_use_dynamic_rules")
        self.priority = Control("coll_tuned_priority")
        self.algorithm = Control("coll_tuned_allreduce_algorithm")
        self.segment = Control("coll_tuned_allreduce_algorithm_segmentsize")
        file = Control("coll_tuned_dynamic_rules_filename").text
        if self.dynamic.value:
            _refuse(file, "OMPI_MCA_coll_tuned_dynamic_rules_filename")
        self.values = {(AUTO if not value else name): value for name, value in self.algorithm.labels().items()}
        self.names = tuple(FIXED + name for name in self.values)
        self.made: dict[tuple[str, int], MPI.Intracomm] = {}

    def segments(self, name: str, asked: Sequence[int | None]) -> Sequence[int | None]:
        """Only the segmented ring knows segments; it needs one."""
        if name != FIXED + self.SEGMENTED:
            return (None,)
        return [segment for segment in asked if segment] or [SEGMENT]

    def forced(self, name: str, segment_nbytes: int | None = None) -> Forced:
        """The algorithm of that name, on a communicator that is made once."""
        short, segment = name.removeprefix(FIXED), segment_nbytes or 0
        if (short, segment) not in self.made:
            value = self.values[short]
            with setting({self.dynamic: 1, self.priority: HIGHEST, self.algorithm: value, self.segment: segment}):
                self.made[short, segment] = self.comm.Dup()
        return Forced(self.made[short, segment], segment_nbytes=segment or None)

    def close(self) -> None:
        """Free the communicators."""
        for comm in self.made.values():
            comm.Free()
        self.made.clear()


class Mpich(Library):
    """The algorithms that all devices of MPICH share.

    Raises:
        LookupError: if it lacks a control variable.
        ValueError: if a tuning file is in force.
    """

    FILE = "MPIR_CVAR_COLL_SELECTION_TUNING_JSON_FILE"
    ABSENT = "ccl"  # a GPU's own library, without which it falls back to another

    def __init__(self, comm: MPI.Intracomm):
        self.comm = comm
        self.algorithm = Control("MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM")
        self.device = Control("MPIR_CVAR_ALLREDUCE_DEVICE_COLLECTIVE")
        self.values = {name: value for name, value in _in_order(self.algorithm.description) if name != self.ABSENT}
        self.names = tuple(FIXED + name for name in self.values)
        _refuse(os.environ.get(self.FILE, ""), self.FILE)  # as a control variable it reads empty

    def forced(self, name: str, segment_nbytes: int | None = None) -> Forced:
        """The algorithm of that name."""
        value = self.values[name.removeprefix(FIXED)]
        return Forced(self.comm, partial(setting, {self.device: 0, self.algorithm: value}))


def _refuse(file: str, variable: str) -> None:
    """A tuning file speaks up beside the algorithms that are to be measured, or before them."""
    if file:
        raise ValueError(
            f"the tuning file {file} is in force, and the library would not do as it is told; unset {variable}"
        )


def _in_order(description: str) -> list[tuple[str, int]]:
    """The values of an MPICH variable: it has no enumeration, but a line for each value, in their order."""
    return [(name, value) for value, name in enumerate(re.findall(r"^(\w+) +- ", description, re.MULTILINE))]


def find(comm: MPI.Intracomm) -> Library:
    """The algorithms of the library in use; collective.

    Raises:
        AgreedError: on all ranks, if its algorithms cannot be chosen one by one.
    """
    found, problem = _try(comm)
    agree(comm, found is not None, f"--library-algorithms: {problem}")
    if found is None:
        raise RuntimeError(problem)  # never: all ranks have raised by now
    alike = comm.size > 2 and len({_result(found.forced(name)) for name in found.names}) == 1
    agree(comm, not alike, "--library-algorithms: whatever is chosen, the MPI library runs the same algorithm")
    return found


def _try(comm: MPI.Intracomm) -> tuple[Library | None, str]:
    said = MPI.Get_library_version()
    try:
        if "Open MPI" in said:
            return OpenMpi(comm), ""
        if "MPICH" in said:
            return Mpich(comm), ""
    except (LookupError, ValueError, OSError) as error:
        return None, str(error)
    return None, f"the algorithms of Open MPI and MPICH can be chosen one by one, not those of {said[:60]!r}"


def _result(forced: Forced) -> bytes:
    """The bits of a sum of this rank, which tell in which order an algorithm adds."""
    comm = forced.comm
    numbers = np.random.default_rng(comm.rank).standard_normal(64 * comm.size)
    with forced.chosen():
        comm.Allreduce(MPI.IN_PLACE, numbers)
    return numbers.tobytes()
