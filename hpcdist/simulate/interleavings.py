"""Plays the lowered programs of all ranks against each other in a random order that the rules allow.

What `verify` proves of a schedule, this checks of what lowering made of it: that no operation touches memory in
flight, that nobody waits for ever even if no send is buffered, and that the result keeps the contract whatever the
order in which messages arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np
from numpy.typing import NDArray

from hpcdist.errors import ScheduleError
from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.schedule.order import Act, in_order
from hpcdist.schedule.program import Kind, Operation, Program


class _Player:
    """One rank: its memory, its operations and what has become of them."""

    def __init__(self, program: Program, memory: NDArray[np.int64], driver: str) -> None:
        self.program, self.memory = program, memory
        self.operations = program.operations
        self.started = [False] * len(self.operations)
        self.complete = [False] * len(self.operations)
        self.script = deque(in_order(self.operations)) if driver == "in_order" else None
        self.queues: dict[tuple[Kind, int], deque[int]] = {}
        for number, op in enumerate(self.operations):
            if op.kind in (Kind.SEND, Kind.RECV):
                self.queues.setdefault((op.kind, op.peer), deque()).append(number)

    def possible(self) -> list[tuple[Act, int]]:
        """What this rank could do now: the next entry of its script, or whatever its dependencies allow."""
        if self.script is not None:
            if not self.script:
                return []
            act, number = self.script[0]
            return [] if act is Act.WAIT and not self.complete[number] else [(act, number)]
        return [
            (Act.START if op.kind in (Kind.SEND, Kind.RECV) else Act.DO, number)
            for number, op in enumerate(self.operations)
            if not self.started[number] and all(self.complete[d] for d in op.after) and self._is_next(number, op)
        ]

    def _is_next(self, number: int, op: Operation) -> bool:
        queue = self.queues.get((op.kind, op.peer)) if op.kind in (Kind.SEND, Kind.RECV) else None
        return queue is None or queue[0] == number

    def act(self, act: Act, number: int) -> None:
        """Start a message or do a reduction, if nothing in flight forbids it."""
        if self.script is not None:
            self.script.popleft()
        if act is Act.WAIT:
            return
        op = self.operations[number]
        if not all(self.complete[d] for d in op.after):
            raise self._error(op, "is begun before what it depends on is complete")
        if not self._is_next(number, op):
            raise self._error(op, "overtakes an earlier message of the pair")
        self._check_flight(op)
        self.started[number] = True
        if op.kind in (Kind.SEND, Kind.RECV):
            self.queues[op.kind, op.peer].popleft()
        else:
            operand = self.memory[op.operand : op.operand + op.count]
            mine = self.memory[op.start : op.stop]
            mine[:] = mine + operand if op.kind is Kind.REDUCE else operand
            self.complete[number] = True

    def _check_flight(self, op: Operation) -> None:
        """No write into what is being sent, and nothing at all in what is being received."""
        writes = op.kind is not Kind.SEND
        ranges = [(op.start, op.stop)] + ([(op.operand, op.operand + op.count)] if op.operand >= 0 else [])
        for number, other in enumerate(self.operations):
            if self.started[number] and not self.complete[number]:
                for start, stop in ranges:
                    meets = start < other.stop and other.start < stop
                    if meets and (other.kind is Kind.RECV or (writes and start == op.start)):
                        raise self._error(op, f"touches what operation {number} ({other}) has in flight")

    def _error(self, op: Operation, what: str) -> ScheduleError:
        name = self.program.schedule.name
        return ScheduleError(
            f"{name}, rank {self.program.rank}, step {op.step}: {op.kind.value} {op.start}..{op.stop - 1} {what}."
        )


def rehearse(
    schedule: Schedule,
    count: int,
    segment: int | Sequence[Sequence[int]],
    seed: int = 0,
    driver: str = "any",
    staged: bool = False,
) -> None:
    """Play all ranks' programs once.

    Args:
        schedule: an all-reduce.
        count: elements of the buffer.
        segment: elements of a segment; or those of each rank for each peer.
        seed: of the order and the values.
        driver: "any" takes any order that the dependencies allow, "in_order" the one of `order.in_order`.
        staged: whether the programs are staged.

    Raises: ScheduleError for a race, a deadlock or a wrong result.
    """
    random, numbers = Random(seed), np.random.default_rng(seed)
    layout = Layout.near_equal(schedule, count)
    values = numbers.integers(1, 1 << 40, (schedule.size, count))
    players = []
    for rank in range(schedule.size):
        program = lower(schedule, rank, layout, segment if isinstance(segment, int) else segment[rank], staged)
        memory = np.concatenate([values[rank], np.full(program.inbox + program.outbox, -1)])
        players.append(_Player(program, memory, driver))
    flights: dict[tuple[int, int], tuple[deque[int], deque[int]]] = {}
    while moves := list(_moves(players, flights)):
        rank, act, number = random.choice(moves)
        if act is not None:
            players[rank].act(act, number)
            _take_off(players[rank], number, act, flights)
        else:
            _land(players, *divmod(number, len(players)), flights)
    for player in players:
        if not all(player.complete) or player.script:
            where = f"{schedule.name} on {schedule.size} ranks"
            raise ScheduleError(f"{where}: nobody can go on, and rank {player.program.rank} is not done.")
    for rank, player in enumerate(players):
        if not np.array_equal(player.memory[:count], values.sum(axis=0)):
            raise ScheduleError(
                f"{schedule.name} on {schedule.size} ranks: rank {rank} ends with a wrong sum (seed {seed})."
            )


def _moves(players: list[_Player], flights: dict) -> Iterator[tuple[int, Act | None, int]]:
    """(rank, act, operation) that could come next, and (_, None, pair) for each message that could arrive."""
    for rank, player in enumerate(players):
        for act, number in player.possible():
            yield rank, act, number
    for (src, dst), (sends, receives) in flights.items():
        if sends and receives:
            yield src, None, src * len(players) + dst


def _take_off(player: _Player, number: int, act: Act, flights: dict) -> None:
    """Note a message that was started, to be matched in the order of starts."""
    if act is not Act.START:
        return
    op, rank = player.operations[number], player.program.rank
    pair = (rank, op.peer) if op.kind is Kind.SEND else (op.peer, rank)
    flights.setdefault(pair, (deque(), deque()))[op.kind is Kind.RECV].append(number)


def _land(players: list[_Player], src: int, dst: int, flights: dict) -> None:
    """Move the data of the oldest message of a pair."""
    sends, receives = flights[src, dst]
    sent, received = sends.popleft(), receives.popleft()
    a, b = players[src].operations[sent], players[dst].operations[received]
    if a.count != b.count or a.step != b.step:
        raise ScheduleError(
            f"rank {src} sends {a.count} elements of step {a.step}; rank {dst} expects {b.count} of step {b.step}."
        )
    players[dst].memory[b.start : b.stop] = players[src].memory[a.start : a.stop]
    players[src].complete[sent] = players[dst].complete[received] = True
