"""A bound program: the calls of a run in their order, and what it takes to make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from numpy.typing import NDArray

from hpcdist.schedule.order import Act
from hpcdist.schedule.program import Operation
from hpcdist.transport import Request


@dataclass(frozen=True, slots=True)
class Call:
    """One entry of a bound program: a message to start or to wait for, or arrays to combine or to copy at once."""

    act: Act
    operation: Operation | None = None  # None for what a run does before and after the program
    request: Request | None = None  # of START and WAIT
    op: str = ""  # of DO: how `left` and `right` are combined into `out`; "" copies `source` to `target`
    arrays: tuple[NDArray, ...] = ()  # of DO: (left, right, out) or (source, target)


class Runner(Protocol):
    """Makes the calls of a bound program in their order; after the last, the next is the first again."""

    name: str

    @property
    def position(self) -> int:
        """The index of the call in hand."""

    def run(self) -> None:
        """Make the calls that are left, and block until each has done its work."""

    def attempt(self) -> bool:
        """Make the calls that are left up to one that would wait; whether none was left."""
