"""Plays the lowered programs of all ranks against each other in a random order that the rules allow.

What `verify` proves of a schedule, this checks of what lowering made of it: that no operation touches memory in
flight, that no two ranks touch the same memory between two barriers if one of them writes, that nobody waits for ever
even if no send is buffered, and that the result keeps the contract whatever the order in which messages arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcdist.errors import ScheduleError
from hpcdist.schedule.ir import Schedule
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.schedule.order import Act, in_order
from hpcdist.schedule.program import HERE, Kind, Operation, Program
from hpcdist.schedule.reach import Reach, reach

DIVISOR = 3  # what DIVIDE multiplies by here, so that who divides twice, or not at all, is found out
Range = tuple[int, int, int, bool]  # rank, start, stop, whether written


def accesses(operation: Operation, rank: int) -> Iterator[Range]:
    """What an operation of a rank touches."""
    owner = rank if operation.owner == HERE else operation.owner
    if operation.count:
        yield owner, operation.start, operation.stop, operation.kind is not Kind.SEND
    for place in operation.operands:
        yield rank if place.rank == HERE else place.rank, place.start, place.start + operation.count, False


def meet(one: Range, other: Range) -> bool:
    """Whether two touch the same memory, and one of them writes."""
    return one[0] == other[0] and one[1] < other[2] and other[1] < one[2] and (one[3] or other[3])


class _Player:
    """One rank: its memory, its operations and what has become of them."""

    def __init__(self, program: Program, memory: NDArray[np.int64], driver: str) -> None:
        self.program, self.memory = program, memory
        self.operations = program.operations
        self.started = [False] * len(self.operations)
        self.complete = [False] * len(self.operations)
        self.script = deque(in_order(self.operations)) if driver == "in_order" else None
        self.whole: Range = (program.rank, 0, program.layout.length, True)
        self.touched = [self.whole]  # since the last barrier; the caller has written all before the run
        self.queues: dict[tuple[Kind, int], deque[int]] = {}
        for number, op in enumerate(self.operations):
            if op.kind.waits:
                self.queues.setdefault((op.kind, op.peer), deque()).append(number)

    def possible(self) -> list[tuple[Act, int]]:
        """What this rank could do now: the next entry of its script, or whatever its dependencies allow."""
        if self.script is not None:
            if not self.script:
                return []
            act, number = self.script[0]
            return [] if act is Act.WAIT and not self.complete[number] else [(act, number)]
        return [
            (Act.START if op.kind.waits else Act.DO, number)
            for number, op in enumerate(self.operations)
            if not self.started[number] and all(self.complete[d] for d in op.after) and self._is_next(number, op)
        ]

    def _is_next(self, number: int, op: Operation) -> bool:
        queue = self.queues.get((op.kind, op.peer)) if op.kind.waits else None
        return queue is None or queue[0] == number

    def act(self, act: Act, number: int, players: Sequence[_Player]) -> None:
        """Start what waits for others, or do a reduction, if nothing in flight forbids it."""
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
        self._check_others(op, players)
        self.started[number] = True
        if op.kind.waits:
            self.queues[op.kind, op.peer].popleft()
        else:
            self._do(op, players)
            self.complete[number] = True

    def _do(self, op: Operation, players: Sequence[_Player]) -> None:
        """Work that is done at once."""
        target = self._memory_of(op.owner, players)[op.start : op.stop]
        if op.kind is Kind.DIVIDE:
            target *= DIVISOR
        else:
            read = [self._memory_of(rank, players)[start : start + op.count] for rank, start in op.operands]
            target[:] = np.sum(read, axis=0)

    def _memory_of(self, rank: int, players: Sequence[_Player]) -> NDArray[np.int64]:
        return self.memory if rank == HERE else players[rank].memory

    def _check_flight(self, op: Operation) -> None:
        """No write into what is being sent, and nothing at all in what is being received."""
        mine = list(accesses(op, self.program.rank))
        for number, other in enumerate(self.operations):
            in_flight = accesses(other, self.program.rank) if self.started[number] and not self.complete[number] else ()
            if any(meet(a, b) for b in in_flight for a in mine):
                raise self._error(op, f"touches what operation {number} ({other}) has in flight")

    def _check_others(self, op: Operation, players: Sequence[_Player]) -> None:
        """Nothing that another rank has written, no write of what it has read, without a barrier in between."""
        mine = list(accesses(op, self.program.rank))
        if (rank := self._met(mine, players)) is not None:
            raise self._error(op, f"meets what rank {rank} has touched since the last barrier")
        self.touched.extend(mine)

    def _met(self, mine: Sequence[Range], players: Sequence[_Player]) -> int | None:
        """A rank that has touched any of this since the last barrier."""
        others = (rank for rank in self.program.reachable if rank != self.program.rank)
        return next((rank for rank in others if any(meet(a, b) for a in mine for b in players[rank].touched)), None)

    def check_end(self, players: Sequence[_Player]) -> None:
        """All is done, and the caller may write all that is his."""
        schedule, rank = self.program.schedule, self.program.rank
        where = f"{schedule.name} on {schedule.size} ranks"
        if not all(self.complete) or self.script:
            raise ScheduleError(f"{where}: nobody can go on, and rank {rank} is not done.")
        if (other := self._met([self.whole], players)) is not None:
            raise ScheduleError(f"{where}: rank {other} has touched memory of rank {rank} since the last barrier.")

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
    *,
    average: bool = False,
    nodes: Sequence[int] | None = None,
    reads_input: bool = False,
) -> None:
    """Play all ranks' programs once.

    Args:
        schedule: an all-reduce.
        count: elements of the buffer.
        segment: elements of a segment; or those of each rank for each peer.
        seed: of the order and the values.
        driver: "any" takes any order that the dependencies allow, "in_order" the one of `order.in_order`.
        staged: whether the programs are staged.
        average: whether sums are divided.
        nodes: the node of each rank, if those of a node reach each other's memory.
        reads_input: whether what ranks contribute lies in an input of its own.

    Raises: ScheduleError for a race, a deadlock or a wrong result.
    """
    random, numbers = Random(seed), np.random.default_rng(seed)
    layout = Layout.near_equal(schedule, count)
    values = numbers.integers(1, 1 << 40, (schedule.size, count))
    known: dict[int, Reach] = {}
    players = []
    for rank in range(schedule.size):
        reachable = Reach()
        if nodes is not None:
            members = [other for other, node in enumerate(nodes) if node == nodes[rank]]
            reachable = known[nodes[rank]] = known.get(nodes[rank]) or reach(schedule, members)
        segments = segment if isinstance(segment, int) else segment[rank]
        program = lower(
            schedule,
            rank,
            layout,
            segments,
            staged,
            average=average,
            reachable=reachable,
            reads_input=reads_input,
        )
        contents = [values[rank]] * (2 if program.reads_input else 1)
        if program.reads_input:
            contents[0] = np.full(count, -1)
        memory = np.concatenate([*contents, np.full(program.inbox + program.outbox, -1)])
        players.append(_Player(program, memory, driver))
    _play(players, random)
    for player in players:
        player.check_end(players)
    expected = values.sum(axis=0) * (DIVISOR if average and schedule.size > 1 else 1)
    for rank, player in enumerate(players):
        if not np.array_equal(player.memory[:count], expected):
            raise ScheduleError(
                f"{schedule.name} on {schedule.size} ranks: rank {rank} ends with a wrong sum (seed {seed})."
            )
        if player.program.reads_input and not np.array_equal(player.memory[count : 2 * count], values[rank]):
            raise ScheduleError(f"{schedule.name} on {schedule.size} ranks: the input of rank {rank} is changed.")


def rehearse_ways(schedule: Schedule, nodes: Sequence[int]) -> int:
    """Play the programs for each way in which they run: messages, staged ones, memory that ranks reach, and drivers.

    Args:
        schedule: an all-reduce.
        nodes: the node of each rank.

    Returns: how many orders were played. Raises: ScheduleError, as `rehearse`.
    """
    count = 2 * schedule.size + 1
    one_node = [0] * schedule.size
    ways: list[dict[str, Any]] = [{}, {"staged": True}, {"nodes": nodes}, {"nodes": one_node, "reads_input": True}]
    orders = [(way, driver) for way in ways for driver in ("any", "in_order")]
    for seed, (way, driver) in enumerate(orders):
        rehearse(schedule, count, 2, seed, driver, average=bool(seed % 4 > 1), **way)
    return len(orders)


Flights = dict[tuple[int, int], tuple[deque[int], deque[int]]]


def _play(players: list[_Player], random: Random) -> None:
    """Until nobody can go on."""
    flights: Flights = {}
    while moves := list(_moves(players, flights)):
        rank, act, number = random.choice(moves)
        if act is not None:
            players[rank].act(act, number, players)
            _take_off(players[rank], number, act, flights)
        elif number < 0:
            _pass_barrier(players, players[rank].program.reachable)
        else:
            _land(players, *divmod(number, len(players)), flights)


def _moves(players: list[_Player], flights: Flights) -> Iterator[tuple[int, Act | None, int]]:
    """(rank, act, operation) that could come next, and (_, None, pair) for each message that could arrive.

    Also (rank, None, -1) for the first of some ranks that are all at a barrier.
    """
    for rank, player in enumerate(players):
        for act, number in player.possible():
            yield rank, act, number
        reachable = player.program.reachable
        if reachable and reachable[0] == rank and all(_at_barrier(players[each]) is not None for each in reachable):
            yield rank, None, -1
    for (src, dst), (sends, receives) in flights.items():
        if sends and receives:
            yield src, None, src * len(players) + dst


def _at_barrier(player: _Player) -> int | None:
    """The number of the barrier that a rank has come to."""
    for number, op in enumerate(player.operations):
        if op.kind is Kind.BARRIER and player.started[number] and not player.complete[number]:
            return number
    return None


def _pass_barrier(players: list[_Player], reachable: Sequence[int]) -> None:
    """All of them go on."""
    for rank in reachable:
        number = _at_barrier(players[rank])
        assert number is not None
        players[rank].complete[number] = True
        players[rank].touched.clear()


def _take_off(player: _Player, number: int, act: Act, flights: Flights) -> None:
    """Note a message that was started, to be matched in the order of starts."""
    op, rank = player.operations[number], player.program.rank
    if act is not Act.START or op.kind is Kind.BARRIER:
        return
    pair = (rank, op.peer) if op.kind is Kind.SEND else (op.peer, rank)
    flights.setdefault(pair, (deque(), deque()))[op.kind is Kind.RECV].append(number)


def _land(players: list[_Player], src: int, dst: int, flights: Flights) -> None:
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
