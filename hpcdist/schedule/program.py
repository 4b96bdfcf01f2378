"""One rank's program: operations on ranges of elements, and which must be complete before which.

An operation may start when those in its `after` are complete. Messages between two ranks are started in program order
at both ends, which is how they find each other.

A rank's memory is a row of elements: the buffer, then the input if that is another array, then an inbox and an outbox.
A staged program is for a buffer in device memory that MPI cannot read: its messages lie in host memory, in the inbox
and the outbox, and copies between these and the buffer are operations like the others. Ranks that reach each other's
memory, such as those of one node, read and write it instead of sending messages, with barriers in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout

HERE = -1  # the program's own rank, as whose memory is meant


class Kind(Enum):
    """What an operation does."""

    SEND = "send"
    RECV = "receive"
    REDUCE = "reduce"
    COPY = "copy"
    DIVIDE = "divide"  # by the number of ranks: a sum becomes an average
    BARRIER = "barrier"  # of the ranks that reach each other's memory

    @property
    def waits(self) -> bool:
        """Whether it takes other ranks, so that it is started and later found complete."""
        return self in (Kind.SEND, Kind.RECV, Kind.BARRIER)


class Place(NamedTuple):
    """The elements from `start` on in the memory of `rank`."""

    rank: int
    start: int


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing a rank does with elements `start` .. `stop` - 1 of its memory, or of that of rank `owner`.

    REDUCE combines its operands in their order, which is that of ranks: all that compute a sum compute the same bits.
    COPY has one operand.
    """

    kind: Kind
    step: int
    start: int
    stop: int
    peer: int = -1
    operands: tuple[Place, ...] = ()
    owner: int = HERE
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
        average: whether sums are divided by the number of ranks.
        reachable: the ranks that reach each other's memory, this one among them; none if all is sent.
        reads_input: whether it takes what a rank contributes from its input, and not from the buffer.
    """

    schedule: Schedule
    rank: int
    layout: Layout
    inbox: int
    operations: tuple[Operation, ...]
    outbox: int = 0
    staged: bool = False
    average: bool = False
    reachable: tuple[int, ...] = ()
    reads_input: bool = False

    @property
    def inbox_start(self) -> int:
        """Where in the memory the inbox begins."""
        return self.layout.length

    @property
    def outbox_start(self) -> int:
        """Where in the memory the outbox begins."""
        return self.inbox_start + self.inbox
