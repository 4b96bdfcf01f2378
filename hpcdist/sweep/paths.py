"""Over which paths device buffers travel in a sweep: ours by those asked for, the MPI library's by those it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from mpi4py import MPI

from hpcdist.algorithms import SHARED
from hpcdist.collectives import calls
from hpcdist.device import Accelerator
from hpcdist.device.paths import AUTO, AWARE, HOST, PEER, STAGED
from hpcdist.errors import ArgumentError
from hpcdist.mpi.collective_errors import agree
from hpcdist.sweep.record import of_library


@dataclass(frozen=True)
class Paths:
    """The paths of a sweep.

    Attributes:
        taken: for each path asked for, the one that a plan takes; they differ for "auto".
        impossible: for each of the others, why not.
        not_shared: why host buffers cannot pass through memory that all ranks share; "" if they can.
    """

    taken: Mapping[str, str]
    impossible: Mapping[str, str] = field(default_factory=dict)
    not_shared: str = ""

    def of(self, algorithm: str) -> tuple[str, ...]:
        """The paths on which to measure an algorithm.

        The MPI library gets a copy in host memory, and the device buffer itself where it is known to take it.
        """
        taken = self.taken.values()
        if of_library(algorithm) and HOST not in taken:
            return (STAGED, AWARE) if AWARE in taken else (STAGED,)
        if algorithm.partition(":")[0] == SHARED:
            fitting = (PEER,) if self.not_shared else (PEER, HOST)
            return tuple(asked for asked, found in self.taken.items() if found in fitting)
        return tuple(self.taken)


ON_HOST = Paths({AUTO: HOST}, not_shared="nobody looked")


def on_host(comm: MPI.Intracomm) -> Paths:
    """What host buffers can do here, seen by binding a plan; collective."""
    try:
        calls.plan(comm, np.empty(1, np.float32), algorithm=SHARED).close()
    except ArgumentError as error:
        return Paths({AUTO: HOST}, not_shared=str(error))
    return Paths({AUTO: HOST})


def find(comm: MPI.Intracomm, accelerator: Accelerator, asked: Sequence[str]) -> Paths:
    """Which of the paths asked for can be taken by device buffers, seen by binding a plan; collective.

    Raises:
        AgreedError: on all ranks, if none can.
    """
    buffer = accelerator.empty(1, np.float32)
    taken, impossible = {}, {}
    for path in asked:
        try:
            plan = calls.plan(comm, buffer, algorithm="ring", path=path)
        except ArgumentError as error:
            impossible[path] = str(error)
            continue
        taken[path] = plan.path
        plan.close()
    why = "; ".join(f"{path}: {text}" for path, text in impossible.items())
    agree(comm, bool(taken), f"no path that was asked for can be taken. {why}")
    return Paths(taken, impossible)
