"""A bound program: the calls of a run in their order, and what it takes to make them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.schedule.order import Act
from hpcdist.schedule.program import HERE, Kind, Operation
from hpcdist.transport import Request


@dataclass(frozen=True, slots=True)
class Call:
    """One entry of a bound program: a request to start or to wait for, or arrays to combine or to copy at once.

    Attributes:
        act: what to do.
        operation: of the program; None for what a run does before and after it.
        request: of START and WAIT: a message, or a barrier.
        op: of DO: how sources are combined, in their order; "" copies the only one.
        sources: of DO.
        targets: of DO: where the result goes.
        divisor: of DO: by what the result is divided; 1 leaves it.
    """

    act: Act
    operation: Operation | None = None
    request: Request | None = None
    op: str = ""
    sources: tuple[NDArray, ...] = ()
    targets: tuple[NDArray, ...] = ()
    divisor: int = 1

    @property
    def arrays(self) -> tuple[NDArray, ...]:
        """All that it touches."""
        return self.sources + self.targets

    @property
    def is_plain(self) -> bool:
        """Whether it is a copy, or combines two arrays, as most calls do."""
        return len(self.targets) == 1 and self.divisor == 1 and len(self.sources) == (2 if self.op else 1)


def fused(calls: Sequence[Call]) -> list[Call]:
    """The same calls, where a sum is divided and copied to others as soon as it is there: one pass over memory."""
    done: list[Call] = []
    for call in calls:
        last = done[-1] if done else None
        if last is None or not _continues(last, call):
            done.append(call)
        elif call.divisor > 1:
            done[-1] = replace(last, divisor=call.divisor)
        else:
            done[-1] = replace(last, targets=last.targets + call.targets)
    return done


def _continues(last: Call, call: Call) -> bool:
    """Whether a call takes just what the last one has made of the memory of others.

    Of messages nothing is fused: a 16-bit type is rounded once less so, and not by all ranks that compute a sum.
    """
    made, next_ = last.operation, call.operation
    if made is None or next_ is None or not any(place.rank != HERE for place in made.operands) or not last.op:
        return False
    if next_.kind is Kind.DIVIDE:
        return len(last.targets) == 1 and _same(last.targets[0], call.targets[0])
    return next_.kind is Kind.COPY and _same(last.targets[0], call.sources[0])


def _same(one: NDArray, other: NDArray) -> bool:
    return address_of(one) == address_of(other) and one.nbytes == other.nbytes


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
