"""In which order a driver without choice of its own starts a program's operations and waits for them."""

from __future__ import annotations

import heapq
from enum import Enum

from hpcdist.schedule.program import Kind, Operation


class Act(Enum):
    """What a driver does with an operation: one that takes other ranks is started and waited for, the others done."""

    START = "start"
    WAIT = "wait"
    DO = "do"


def in_order(operations: tuple[Operation, ...]) -> list[tuple[Act, int]]:
    """One good order for a driver that does one thing after the other: (what to do, number of the operation).

    Messages and barriers start as soon as what they need is complete, receives before sends; the driver waits only
    where the next reduction, or a message that would reuse a range, cannot go on without. No rank waits for anything
    that its peer would start only after a later step, so programs made from one schedule cannot deadlock.
    """
    missing = [len(op.after) for op in operations]
    unblocks: list[list[int]] = [[] for _ in operations]
    queues: dict[tuple[Kind, int], list[int]] = {}
    for number, op in enumerate(operations):
        for dependency in op.after:
            unblocks[dependency].append(number)
        if op.kind.waits:
            queues.setdefault((op.kind, op.peer), []).append(number)
    heads = dict.fromkeys(queues, 0)
    position = {number: i for numbers in queues.values() for i, number in enumerate(numbers)}
    startable: list[tuple[int, bool, int]] = []
    started, complete = [False] * len(operations), [False] * len(operations)
    order: list[tuple[Act, int]] = []

    def offer(number: int) -> None:
        """Put a message on the heap if nothing keeps it: dependencies, or an earlier message of the pair."""
        op = operations[number]
        key = (op.kind, op.peer)
        if op.kind.waits and not missing[number] and position[number] == heads[key]:
            heapq.heappush(startable, (op.step, op.kind is Kind.SEND, number))

    def start_all() -> None:
        while startable:
            number = heapq.heappop(startable)[2]
            order.append((Act.START, number))
            started[number] = True
            key = (operations[number].kind, operations[number].peer)
            heads[key] += 1
            if heads[key] < len(queues[key]):
                offer(queues[key][heads[key]])

    def finish(act: Act, number: int) -> None:
        order.append((act, number))
        started[number] = complete[number] = True
        for waiting in unblocks[number]:
            missing[waiting] -= 1
            offer(waiting)
        start_all()

    for numbers in queues.values():
        offer(numbers[0])
    start_all()
    for number, op in enumerate(operations):
        for dependency in op.after:
            if not started[number] and not complete[dependency]:
                finish(Act.WAIT, dependency)
        if not started[number]:
            finish(Act.DO, number)
    for number, done in enumerate(complete):
        if not done:
            order.append((Act.WAIT, number))
    return order
