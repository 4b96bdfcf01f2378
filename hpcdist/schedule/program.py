"""One rank's program: operations on ranges of elements, and which must be complete before which.

An operation may start when those in its `after` are complete. Messages between two ranks are started in program order
at both ends, which is how they find each other.

A staged program is for a buffer in device memory that MPI cannot read: its messages lie in host memory, an inbox and an
outbox, and copies between these and the buffer are operations like the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout


class Kind(Enum):
    """What an operation does."""

    SEND = "send"
    RECV = "receive"
    REDUCE = "reduce"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a rank does with elements `start` .. `stop` - 1 of its line: buffer, input, inbox, outbox.

    REDUCE and COPY take their operand from `operand` on. `incoming_first` says that the operand comes from a lower
    rank and is therefore the left one: all ranks that compute a sum then compute the same bits.
    """

    kind: Kind
    step: int
    start: int
    stop: int
    peer: int = -1
    operand: int = -1
    incoming_first: bool = False
    after: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Elements."""
        return self.stop - self.start


@dataclass(frozen=True)
class Program:
    """All that one rank does.

    Attributes:
        schedule: what it is a part of.
        rank: whose part.
        layout: where the chunks lie.
        inbox: elements after the buffer and the input, for what is received to be reduced or copied.
        operations: each after those that it depends on.
        outbox: elements after the inbox, for copies of what is sent; 0 unless staged.
        staged: whether messages touch nothing but inbox and outbox, so that the buffer may be where MPI cannot read.
    """

    schedule: Schedule
    rank: int
    layout: Layout
    inbox: int
    operations: tuple[Operation, ...]
    outbox: int = 0
    staged: bool = False

    @property
    def inbox_start(self) -> int:
        """Where on the line the inbox begins."""
        return self.layout.length

    @property
    def outbox_start(self) -> int:
        """Where on the line the outbox begins."""
        return self.inbox_start + self.inbox
