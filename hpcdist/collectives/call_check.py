"""The check before a one-line call: do all ranks make the same one?

On one node it is a number beside the data of a small all-reduce through bounce buffers, which is compared before
anything is reduced; otherwise a message exchange of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hpcdist.algorithms import recursive_doubling
from hpcdist.executor.bind import BoundProgram
from hpcdist.executor.intranode import bounce_layout
from hpcdist.executor.intranode.bounce_buffers import BouncedProgram
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.transport.mpi import MpiTransport

NAME = "the check that all make the same call"  # what the watchdog says


class ByFlags:
    """An all-reduce of nothing, in the bounce buffer of all small one-line calls."""

    def __init__(self, transport: MpiTransport, bounce: np.ndarray) -> None:
        nothing = np.empty(0, np.float32)
        schedule = bounce_layout.schedule(transport.size, 0)
        self._nothing = BouncedProgram(schedule, transport, nothing, nothing, "sum", bounce, name=NAME)

    def __call__(self, number: int) -> bool:
        """Collective: whether all ranks have the same number."""
        self._nothing.number(number)
        return self._nothing.checked()

    def free(self) -> None:
        """Refer to no memory any more."""
        self._nothing.free()


class ByMessages:
    """An all-reduce of two numbers, bound once, as every call waits for it. Collective, since it takes a tag."""

    def __init__(self, transport: MpiTransport) -> None:
        numbers = np.zeros(2, np.int64)
        self._numbers = numbers.data  # whose elements are Python's own, without an array's delay
        schedule = replace(recursive_doubling(transport.size), name=NAME)
        layout = Layout.near_equal(schedule, numbers.size)
        program = lower(schedule, transport.rank, layout, numbers.size)
        self._largest = BoundProgram(program, transport, numbers, op="max", tag=transport.take_tag())

    def __call__(self, number: int) -> bool:
        """Collective: whether all ranks have the same number."""
        numbers = self._numbers
        numbers[0], numbers[1] = number, -number
        self._largest()
        return numbers[0] == -numbers[1]

    def free(self) -> None:
        """Give up its requests."""
        self._largest.free()
