"""What a schedule costs: steps, messages and bytes counted from its rows, and time from alpha, beta and gamma."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcdist.schedule.ir import Ints, Rows, Schedule, Step

PATIENCE = 3 * 10**8  # rows; to look at more takes minutes
SIEVE = 1 << 20  # places


@dataclass(frozen=True)
class Model:
    """The price of a message: alpha [s] + beta [s/byte] * bytes, and gamma [s/byte] for each byte reduced.

    `alpha` and `beta` hold between nodes, `node_alpha` and `node_beta` inside one (the same if None). `pair_beta` is
    that of a byte between two ranks on different nodes that send to each other in the same step, as partners do in
    halving and doubling: more than `beta` where a connection does not carry both ways at once, as Open MPI's over TCP
    in large messages; the same if None. The ranks of a node share its link to the others.

    `gap` [s] is the price of each further message that a rank sends, or receives, in a step after the first one's
    `alpha`: less than that where they are on their way at the same time, the g of LogP; the same if None.

    Some more say what some networks do. `lone_alpha` [s] is the price of a message while no other is on its way: less
    than `alpha`, which holds while every node sends one, where nodes share cores, as virtual ones do; the same if None.
    What it is less by, of further messages as well, is time on those cores, which the messages of all ranks share.
    `burst` [bytes] is what a link that was idle has saved up: so much goes beyond its rate, as the token buckets of
    virtual machines let it; then time without traffic is not lost. `burst_beta` is the price of a byte meanwhile.

    The defaults are those of a 100 Gbit/s network; `hpcdist sweep` fits all of them.
    """

    alpha: float = 5e-6
    beta: float = 8e-11
    gamma: float = 5e-12
    node_alpha: float | None = None
    node_beta: float | None = None
    pair_beta: float | None = None
    lone_alpha: float | None = None
    burst: float = 0.0
    burst_beta: float = 0.0
    gap: float | None = None

    def start(self, messages: Ints, alpha: float, begun: Ints | None = None) -> NDArray:
        """What so many messages of each rank cost before their bytes do [s].

        Args:
            messages: between nodes, in one step, or in several of which `begun` have any.
            alpha: the price of the first one in a step.
            begun: see above; None for one step.
        """
        first = np.minimum(messages, 1) if begun is None else begun
        further = messages - first
        # what is due to shared cores is due to the messages of all
        further = further + (1 - self.lone_part) * (further.mean() - further) * (messages > 0)
        return alpha * first + min(alpha, alpha if self.gap is None else self.gap) * further

    def alpha_beside(self, others: float) -> float:
        """The price of a message [s] beside as many others as that part of the nodes can send one each."""
        return self.alpha * (self.lone_part + (1 - self.lone_part) * min(1.0, others))

    @property
    def lone_part(self) -> float:
        """Of `alpha`, what is left while no other message is on its way."""
        return 1.0 if self.lone_alpha is None or not self.alpha else min(1.0, self.lone_alpha / self.alpha)

    def as_dict(self) -> dict[str, float | None]:
        """The fields by name."""
        return asdict(self)

    def inside(self) -> Model:
        """The prices where all ranks share one node."""
        alpha = self.alpha if self.node_alpha is None else self.node_alpha
        return Model(alpha, self.beta if self.node_beta is None else self.node_beta, self.gamma)

    @property
    def pair_surcharge(self) -> float:
        """What a byte costs more between two that send to each other [s]."""
        return 0.0 if self.pair_beta is None else max(0.0, self.pair_beta - self.beta)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Model:
        """The inverse of `as_dict`.

        Raises: ValueError for unknown fields or prices that are not positive numbers.
        """
        unknown = set(fields) - set(cls.__dataclass_fields__)
        if unknown:
            raise ValueError(f"a price model has no {', '.join(sorted(unknown))}; it has {', '.join(asdict(cls()))}.")
        for name, price in fields.items():
            if price is not None and not (isinstance(price, int | float) and 0 <= price < float("inf")):
                unit = "bytes" if name == "burst" else "seconds"
                raise ValueError(f"the model's {name} must be a number of {unit} >= 0, not {price!r}.")
        return cls(**fields)


DEFAULT = Model()


class Counts(NamedTuple):
    """What a schedule does, per rank [size], in messages and in chunks."""

    steps: int
    messages: Ints  # sent
    begun: Ints  # steps in which any is sent
    sent: Ints
    received: Ints
    reduced: Ints

    def sent_bytes(self, nbytes: int, chunks: int) -> NDArray:
        """Bytes each rank sends for a buffer of `nbytes` cut in `chunks` equal parts."""
        return self.sent * (nbytes / chunks)


def count(schedule: Schedule) -> Counts:
    """Count steps, messages and chunks from the rows; a rank's copies to itself are not messages.

    Raises: ValueError if there are more rows than anybody would wait for.
    """
    size = schedule.size
    if schedule.alike:
        totals = sum(times * _of_rank_0(step.rows_of(0)) for step, times in _by_pattern(schedule))
        return Counts(len(schedule.steps), *(np.full(size, total) for total in np.broadcast_to(totals, 5)))
    steps = _by_pattern(schedule)
    _check_patience(schedule, len(steps))
    columns = np.zeros((5, size), np.int64)
    for step, times in steps:
        rows = _messages(step.rows())
        messages = np.bincount(rows.src, minlength=size)
        columns[0] += times * messages
        columns[1] += times * (messages > 0)
        columns[2] += times * _total(rows.src, rows.count, size)
        columns[3] += times * _total(rows.dst, rows.count, size)
        columns[4] += times * _total(rows.dst, rows.count * rows.reduce, size)
    return Counts(len(schedule.steps), *columns)


def _by_pattern(schedule: Schedule) -> list[tuple[Step, int]]:
    """One step of each pattern, and how many there are of it."""
    alike: dict[Hashable, list[Step]] = {}
    for step in schedule.steps:
        alike.setdefault(step if step.pattern is None else step.pattern, []).append(step)
    return [(steps[0], len(steps)) for steps in alike.values()]


def _of_rank_0(rows: Rows) -> NDArray:
    """What rank 0 does in a step: messages, whether there are any, chunks sent, received and reduced."""
    rows = _messages(rows)
    into = rows.dst == 0
    sent, received = rows.count[~into], rows.count[into]
    return np.array([len(sent), min(len(sent), 1), sent.sum(), received.sum(), received[rows.reduce[into]].sum()])


def _exchanged(rows: Rows) -> int:
    """The chunks that rank 0 sends in a step to ranks that send to it."""
    rows = _messages(rows)
    return int(rows.count[(rows.src == 0) & _mutual(rows)].sum())


def _mutual(rows: Rows) -> NDArray[np.bool_]:
    """Which rows are between two ranks that send to each other in this step."""
    size = 1 + max(rows.src.max(), rows.dst.max()) if len(rows) else 1
    there, back = rows.src * size + rows.dst, rows.dst * size + rows.src
    seen = np.zeros(SIEVE, bool)  # a sieve lets through all that are, and few that are not
    seen[back % SIEVE] = True
    mutual = seen[there % SIEVE]
    mutual[mutual] = np.isin(there[mutual], back)
    return mutual


def predict(
    schedule: Schedule,
    nbytes: int,
    model: Model = DEFAULT,
    topology: tuple[int, ...] | None = None,
    counts: Counts | None = None,
) -> float:
    """The time [s] at which the last rank is done, for a buffer of `nbytes` bytes.

    Every rank has a clock. In a step it waits for those it hears from, then spends alpha for a message, the gap for
    each further one and beta for each byte, sending and receiving at the same time, and gamma for each byte it reduces.
    Ranks that take no part do not wait, so that the blocks of binary_blocks run at their own pace. Links that let
    bursts through begin with none to spare, as in one all-reduce after the other.

    Args:
        schedule: what to price.
        nbytes: bytes of the buffer.
        model: the prices.
        topology: the node of each rank; each rank on a node of its own if None.
        counts: `count(schedule)`, if it is known already.

    Raises: ValueError if the schedule has too many rows to look at.
    """
    per_chunk = nbytes / schedule.chunks
    node = np.arange(schedule.size) if topology is None else np.asarray(topology, np.int64)
    nodes = len(np.unique(node))
    if schedule.alike and nodes in (1, schedule.size):
        # all ranks send and receive the same in each step, so none ever waits
        model = model if nodes == schedule.size else model.inside()
        if model.burst:
            return _alike_with_bursts(schedule, per_chunk, model)
        counts, surcharge = counts or count(schedule), model.pair_surcharge
        exchanged = (
            sum(times * _exchanged(step.rows_of(0)) for step, times in _by_pattern(schedule)) if surcharge else 0
        )
        return float(
            model.start(counts.messages[:1], model.alpha, counts.begun[:1])[0]
            + per_chunk * (model.beta * counts.sent[0] + model.gamma * counts.reduced[0])
            + per_chunk * surcharge * exchanged
        )
    per_rank = sum(times * len(step.rows_of(0)) for step, times in _by_pattern(schedule)) if schedule.alike else 0
    _check_patience(schedule, per_rank or len(schedule.steps))
    node = np.unique(node, return_inverse=True)[1]
    clock, ways = np.zeros(schedule.size), (_Links(model, nodes), _Links(model, nodes))
    known: dict[Hashable, _Priced] = {}
    for step in schedule.steps:
        priced = known.get(step.pattern)
        if priced is None:
            priced = _Priced(_messages(step.rows()), per_chunk, model, node)
            if step.pattern is not None:
                known[step.pattern] = priced
        clock = priced.advance(clock, ways)
    return float(clock.max())


class _Links:
    """The nodes' links, in one direction: token buckets, which fill at the rate and empty at that of a burst."""

    def __init__(self, model: Model, nodes: int) -> None:
        self.beta, self.burst, self.burst_beta = model.beta, model.burst, model.burst_beta
        self.bursts = bool(self.burst and self.beta > self.burst_beta)
        self.saved = np.zeros(nodes)  # bytes
        self.since = np.zeros(nodes)  # when that was so [s]

    def carry(self, start: NDArray, nbytes: NDArray) -> NDArray:
        """Seconds in which each link carries so many bytes, which are there from `start` [s] on."""
        if not self.bursts:
            return nbytes * self.beta
        saved = np.minimum(self.burst, self.saved + np.maximum(0.0, start - self.since) / self.beta)
        beyond = 1 - self.burst_beta / self.beta  # the part of the bytes of a burst that the rate does not account for
        fast = np.minimum(nbytes, saved / beyond)
        seconds = fast * self.burst_beta + (nbytes - fast) * self.beta
        used = nbytes > 0
        self.saved = np.where(used, saved - fast * beyond, self.saved)
        self.since = np.where(used, start + seconds, self.since)
        return seconds


def _alike_with_bursts(schedule: Schedule, per_chunk: float, model: Model) -> float:
    """The time [s] of ranks on nodes of their own that do the same in each step."""
    clock, link = np.zeros(1), _Links(model, 1)
    for step in schedule.steps:
        rows = step.rows_of(0)
        messages, _, sent, _, reduced = _of_rank_0(rows).tolist()
        exchanged = _exchanged(rows) if model.pair_surcharge else 0
        clock = clock + model.start(np.array([messages]), model.alpha)
        clock = clock + link.carry(clock, np.array([per_chunk * sent]))
        clock = clock + per_chunk * (model.pair_surcharge * exchanged + model.gamma * reduced)
    return float(clock[0])


def _check_patience(schedule: Schedule, per_rank: int) -> None:
    """Refuse to look at so many rows of each rank where that would take minutes."""
    if (rows := schedule.size * per_rank) > PATIENCE:
        raise ValueError(
            f"{schedule.name} on {schedule.size} ranks has about {rows:.0e} transfers: too many to look at."
        )


def _messages(rows: Rows) -> Rows:
    """The rows that cross from one rank to another."""
    self_copies = rows.src == rows.dst
    return rows.select(~self_copies) if self_copies.any() else rows


def _total(rank: Ints, amount: NDArray, size: int) -> NDArray:
    """The sum of amounts for each rank."""
    return np.bincount(rank, weights=amount, minlength=size).astype(np.int64)


class _Direction:
    """What the ranks send, or receive, in a step: seconds that each takes by itself, and bytes on the links."""

    def __init__(self, rank: Ints, nbytes: NDArray, inside: NDArray[np.bool_], mutual: NDArray, step: _Priced) -> None:
        model, node, nodes = step.model, step.node, step.nodes
        in_node, crossing = model.inside(), np.where(inside, 0.0, nbytes)
        beside = model.alpha_beside((np.count_nonzero(~inside) - 1) / max(1, nodes - 1))
        messages = np.bincount(rank[~inside], minlength=len(node))
        self.alone = np.bincount(rank, np.where(inside, in_node.alpha + in_node.beta * nbytes, 0.0), len(node))
        self.alone = self.alone + model.start(messages, beside)
        self.crosses, self.node, self.nodes = messages > 0, node, nodes
        self.nbytes = np.bincount(node[rank], crossing, nodes)
        self.surcharge = np.bincount(node[rank], model.pair_surcharge * crossing * mutual, nodes)

    def seconds(self, ready: NDArray, links: _Links) -> NDArray:
        """Seconds each rank is busy, the link of its node shared with the node's other ranks."""
        start = np.zeros(self.nodes)
        if links.bursts:
            np.maximum.at(start, self.node[self.crosses], (ready + self.alone)[self.crosses])
        shared = links.carry(start, self.nbytes) + self.surcharge
        return self.alone + np.where(self.crosses, shared[self.node], 0.0)


class _Priced:
    """A step, or all of one pattern: what it adds to the ranks' clocks."""

    def __init__(self, rows: Rows, per_chunk: float, model: Model, node: Ints) -> None:
        self.rows, self.model, self.node, self.nodes = rows, model, node, int(node.max()) + 1
        if not len(rows):
            return
        nbytes, inside = rows.count * per_chunk, node[rows.src] == node[rows.dst]
        mutual = _mutual(rows) if model.pair_surcharge else np.zeros(len(rows), bool)
        self.out, self.into = (_Direction(rank, nbytes, inside, mutual, self) for rank in (rows.src, rows.dst))
        self.reducing = np.bincount(rows.dst, model.gamma * nbytes * rows.reduce, len(node))

    def advance(self, clock: NDArray, ways: tuple[_Links, _Links]) -> NDArray:
        """The ranks' clocks [s] after the step; `ways` are the links out of the nodes and into them."""
        if not len(self.rows):
            return clock
        ready = clock.copy()
        np.maximum.at(ready, self.rows.dst, clock[self.rows.src])
        busy = (each.seconds(ready, links) for each, links in zip((self.out, self.into), ways, strict=True))
        return ready + np.maximum(*busy) + self.reducing
