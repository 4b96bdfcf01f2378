"""hpcdist proves, runs, prices and tunes all-reduce algorithms written as data, and trains with them on MPI clusters.

`import hpcdist` does not start MPI; the first use of a call that needs it does.

Words: rank, size, peer, root; *step*: transfers that may run together; *chunk*: a near-equal part of the buffer, the
unit of a schedule; *segment*: part of a message, for pipelining; count = elements, nbytes = bytes; alpha [s] per
message, beta [s/byte], gamma [s/byte reduced].
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hpcdist import algorithms
from hpcdist._version import __version__
from hpcdist.algorithms import register
from hpcdist.errors import AgreedError, ArgumentError, LaunchError, ScheduleError
from hpcdist.schedule.ir import Rows, Schedule, Step
from hpcdist.schedule.verify import verify
from hpcdist.simulate import cost

if TYPE_CHECKING:
    from hpcdist.collectives.calls import (
        Plan,
        allgather,
        allreduce,
        alltoall,
        bcast,
        empty,
        own_part,
        plan,
        reduce,
        reduce_scatter,
        release,
    )

_NEED_MPI = {
    "Plan",
    "allgather",
    "allreduce",
    "alltoall",
    "bcast",
    "empty",
    "own_part",
    "plan",
    "reduce",
    "reduce_scatter",
    "release",
}

__all__ = [
    "AgreedError",
    "ArgumentError",
    "LaunchError",
    "Plan",
    "Rows",
    "Schedule",
    "ScheduleError",
    "Step",
    "__version__",
    "algorithms",
    "allgather",
    "allreduce",
    "alltoall",
    "bcast",
    "cost",
    "empty",
    "own_part",
    "plan",
    "reduce",
    "reduce_scatter",
    "register",
    "release",
    "verify",
]


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name in _NEED_MPI:
        found = globals()[name] = getattr(importlib.import_module("hpcdist.collectives.calls"), name)
        return found
    raise AttributeError(f"module 'hpcdist' has no attribute {name!r}")
