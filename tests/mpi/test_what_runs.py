"""`plan.schedule` is what runs: what each rank reads and writes is recorded by address, and is the schedule's rows.

Of messages it is read from what the runner goes through, of bounce buffers from the functions that the kernel calls.
"""

import ctypes
from collections import defaultdict
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from mpi4py import MPI

import hpcdist
from hpcdist import algorithms
from hpcdist.collectives.plan import Collective
from hpcdist.device.buffers import address_of
from hpcdist.errors import AgreedError
from hpcdist.kernels.jit import SWITCH
from hpcdist.schedule.ir import Rows, Step
from hpcdist.schedule.layout import Layout
from hpcdist.transport.mpi import MpiTransport, transport_of
from hpcdist.transport.shared_memory import views

pytestmark = pytest.mark.mpi(min_size=2)

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
WORD = 8  # bytes of an element
NODES = {"one node": [0] * SIZE, "two nodes": [int(rank > SIZE // 2) for rank in range(SIZE)]}


@pytest.fixture
def comm():
    duplicate = COMM.Dup()
    yield duplicate
    duplicate.Free()


# --- what the schedule says ---


def rows_of(schedule, layout):
    """[transfer of one element: step, src, element there, dst, element there, whether it adds]."""
    found = []
    for number, step in enumerate(schedule.steps):
        for row in step.rows():
            count = layout.start(row.dst_chunk + row.count) - layout.start(row.dst_chunk)
            at = np.arange(count)
            columns = (number, row.src, layout.start(row.src_chunk) + at, row.dst, layout.start(row.dst_chunk) + at)
            found.append(np.stack(np.broadcast_arrays(*columns, row.reduce), axis=1))
    return np.concatenate([*found, np.empty((0, 6), int)])


def compare(schedule, layout, recorded):
    """Rank 0: the transfers are those of the schedule, and those into one element are in the order of its steps."""
    wanted = rows_of(schedule, layout)
    found = np.concatenate([*map(np.asarray, recorded), np.empty((0, 5), int)]).astype(int)
    order = np.lexsort(found.T)
    wanted = wanted[np.lexsort(wanted[:, 1:].T)]
    np.testing.assert_array_equal(found[order], wanted[:, 1:])
    steps = np.empty(len(found), int)
    steps[order] = wanted[:, 0]
    last: dict = {}
    for step, (_, _, dst, element, _) in zip(steps.tolist(), found.tolist(), strict=True):
        assert last.get((dst, element), -1) <= step
        last[dst, element] = step


# --- what messages, and memory that ranks reach, are read and written by ---


def bound_requests(monkeypatch):
    """{id of a request, or address of its handle: (its memory's address, its peer)}, filled as plans are bound."""
    known = {}
    for name in ("send", "receive"):
        original = getattr(MpiTransport, name)

        def binding(self, memory, peer, tag, original=original):
            request = original(self, memory, peer, tag)
            known[id(request)] = (request, address_of(memory), memory.nbytes, peer)
            if request.native:
                known[request.native.address] = known[id(request)]
            return request

        monkeypatch.setattr(MpiTransport, name, binding)
    return known


def events_of_calls(calls, known):
    """What the runner in Python does: (what, addresses of sources, of targets, bytes, peer)."""
    for call in calls:
        if call.request is None:
            yield (
                call.op,
                [*map(address_of, call.sources)],
                [*map(address_of, call.targets)],
                call.targets[0].nbytes,
                -1,
            )
        elif call.act.name == "START" and id(call.request) in known:
            _, address, nbytes, peer = known[id(call.request)]
            yield call.operation.kind.name, [address], [address], nbytes, peer


def events_of_table(runner, known):
    """The same of the table that compiled code goes through."""
    from hpcdist.executor import compiled
    from hpcdist.kernels import in_order

    table = runner._table
    for row in table[compiled.HEAD :].reshape(-1, compiled.ROW).tolist():
        kind = row[0]
        if kind == compiled.STARTS:
            _, address, nbytes, peer = known[row[1]]
            yield "RECV", [address], [address], nbytes, peer
        elif kind == compiled.SENDS:
            yield "SEND", [row[2]], [row[2]], row[3], row[5]
        elif kind == compiled.COPIES:
            yield "", [row[2]], [row[3]], row[1], -1
        elif kind == compiled.COMBINES:
            yield "sum", row[2:4], [row[4]], row[1] * WORD, -1
        elif kind == compiled.REDUCES:
            fields = (ctypes.c_int64 * in_order.ADDRESSES).from_address(row[2])
            sources, targets = fields[in_order.SOURCES], fields[in_order.DESTINATIONS]
            places = (ctypes.c_int64 * (sources + targets)).from_address(row[2] + 8 * in_order.ADDRESSES)
            yield "sum", places[:sources], places[sources:], fields[in_order.COUNT] * WORD, -1


def recorded(plan, known, peers):
    """This rank's events, with addresses turned into (rank, element) where they are in a buffer."""
    runner = plan.bound._runner
    events = events_of_calls(plan.bound._calls, known) if runner.name == "python" else events_of_table(runner, known)

    def place(address):
        for rank, (first, nbytes) in peers.items():
            if first <= address < first + nbytes:
                return rank, (address - first) // WORD
        return None, address

    return [
        (what, [*map(place, sources)], [*map(place, targets)], nbytes // WORD, peer)
        for what, sources, targets, nbytes, peer in events
    ]


def transfers(everybody):
    """What the events of all ranks move: (src, element, dst, element, whether it adds) in the order of each rank."""
    sent = defaultdict(list)
    for rank, events in enumerate(everybody):
        for what, sources, _, count, peer in events:
            if what == "SEND":
                assert sources[0][0] == rank
                sent[rank, peer].append((sources[0][1], count))
    for rank, events in enumerate(everybody):
        boxes = {}  # address: where what is there comes from
        for what, sources, targets, count, peer in events:
            at = np.arange(count)
            if what == "SEND":
                continue
            if what == "RECV":
                element, sent_count = sent[peer, rank].pop(0)
                assert sent_count == count
                if targets[0][0] is None:
                    boxes[targets[0][1]] = (peer, element)
                else:
                    yield columns(peer, element + at, rank, targets[0][1] + at, 0)
                continue
            where = [
                boxes.get(address, (None, address)) if owner is None else (owner, address) for owner, address in sources
            ]
            assert None not in {owner for owner, _ in where}
            owner, element = targets[0]
            foreign = [each for each in where if each != (owner, element)]
            assert len(foreign) == len(where) - bool(what)  # who adds has its own there
            for src, first in foreign:
                yield columns(src, first + at, owner, element + at, bool(what))
            for other, behind in targets[1:]:
                yield columns(rank, element + at, other, behind + at, 0)
    assert not any(sent.values())


def columns(*each):
    return np.stack(np.broadcast_arrays(*each), axis=1)


@pytest.mark.parametrize("compiled", ["0", "1"], ids=["python", "compiled"])
@pytest.mark.parametrize("where", ["messages", "in place"])
@pytest.mark.parametrize("topology", NODES.values(), ids=NODES)
@pytest.mark.parametrize("name", [*algorithms.ALLREDUCE, "shared", "shared:ring", "one_shot", "two_shot:2"])
def test_messages_and_memory_of_peers_are_those_of_the_schedule(comm, monkeypatch, name, topology, where, compiled):
    if (where == "in place") != name.startswith("shared"):
        pytest.skip("only shared algorithms work in memory of others")
    if compiled == "1":
        pytest.importorskip("numba")
    monkeypatch.setenv(SWITCH, compiled)
    known, count = bound_requests(monkeypatch), 1000 * SIZE + 3
    buffer = hpcdist.empty(count, "float64", comm) if where == "in place" else np.empty(count)
    plan = hpcdist.plan(comm, buffer, algorithm=name, topology=topology, segment_nbytes=800)
    assert plan.bound.executor == ("compiled" if compiled == "1" else "python")
    peers = {RANK: (address_of(buffer), buffer.nbytes)}
    if where == "in place":
        ranks = [rank for rank in range(SIZE) if topology[rank] == topology[RANK]]
        arrays = views(transport_of(comm), buffer, ranks)
        peers = {rank: (address_of(array), array.nbytes) for rank, array in zip(ranks, arrays, strict=True)}
    everybody = comm.gather(recorded(plan, known, peers))
    if RANK == 0:
        compare(plan.schedule, Layout.near_equal(plan.schedule, count), transfers(everybody))
    plan.close()


# --- what passes through bounce buffers ---


class Recorder:
    """Stands between a bounce kernel and the functions that it calls."""

    def __init__(self, bound, kernel):
        self.events, self.epoch = [], 0
        self.bound, self.kernel, self.job = bound, kernel, bound._job
        copies = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
        reduces = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64)
        self.keep = []
        for field, kind, record in (
            (kernel.COPY, copies, self.copy),
            (kernel.STREAM, copies, self.copy),
            (kernel.REDUCE, reduces, self.reduce),
        ):
            original = kind(int(self.job[field]))
            instead = kind(partial(self.call, record, original))
            self.keep += [original, instead]
            self.job[field] = ctypes.cast(instead, ctypes.c_void_p).value

    def call(self, record, original, *arguments):
        epoch = self.epoch + int(self.job[self.kernel.PASSED]) * (self.epoch > 0)
        self.events.append((epoch, *record(*arguments)))
        return original(*arguments)

    def copy(self, target, source, nbytes):
        return "copy", [source], target, nbytes

    def reduce(self, row):
        from hpcdist.kernels import in_order

        fields = (ctypes.c_int64 * in_order.ADDRESSES).from_address(row)
        places = (ctypes.c_int64 * (SIZE + 1)).from_address(row + 8 * in_order.ADDRESSES)
        return "reduce", places[:SIZE], places[SIZE], fields[in_order.COUNT] * WORD


def replayed(everybody, buffers, bounces, nbytes):
    """What events of all ranks move, between two barriers after the other; by others' writes since the last one."""
    words = nbytes // WORD
    memory = np.full((SIZE, words, 2), -1)  # of each bounce buffer: (rank, element) from which a word comes
    for epoch in range(1 + max((event[0] for events in everybody for event in events), default=0)):
        before = memory.copy()
        for rank, events in enumerate(everybody):

            def place(address, rank=rank):
                for first, size in buffers[rank]:
                    if first <= address < first + size:
                        return None, (address - first) // WORD
                for other, first in enumerate(bounces[rank]):
                    if first <= address < first + nbytes:
                        return other, (address - first) // WORD
                raise AssertionError(f"rank {rank} touches memory that is none of these")

            def read(address, count, rank=rank, place=place, before=before):
                other, first = place(address)
                if other is None:
                    return columns(rank, first + np.arange(count))
                return (memory if other == rank else before)[other, first : first + count]

            for _, what, sources, target, size in (event for event in events if event[0] == epoch and event[-1]):
                count = size // WORD
                came = [read(source, count) for source in sources]
                other, first = place(target)
                if other is not None:
                    assert (what, other) == ("copy", rank)
                    memory[rank, first : first + count] = came[0]
                    continue
                mine = columns(rank, first + np.arange(count))
                foreign = [each for each in came if not np.array_equal(each, mine)]
                assert len(foreign) == (SIZE - 1 if what == "reduce" else 1)
                for each in foreign:
                    yield columns(each[:, 0], each[:, 1], rank, mine[:, 1], what == "reduce")


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("count", [1, 500, 5000, 32768, 100_003])
def test_what_passes_through_bounce_buffers_is_the_schedule(comm, count, in_place):
    pytest.importorskip("numba")
    from hpcdist.executor.intranode import bounce_kernel, bounce_layout

    buffer, out = np.arange(count) + 1.0, None if in_place else np.empty(count)
    plan = hpcdist.plan(comm, buffer, out)
    assert plan.executor == "bounce_buffers"
    recorder = Recorder(plan.bound, bounce_kernel)
    plan.bound._begin()
    recorder.epoch = 1
    plan.bound._complete()
    np.testing.assert_array_equal(buffer if in_place else out, (np.arange(count) + 1.0) * SIZE)
    bounce = plan.collective.bounce_buffer
    mine = [(address_of(array), array.nbytes) for array in (buffer, out) if array is not None]
    bounces = [*map(address_of, views(transport_of(comm), bounce, range(SIZE)))]
    told = comm.gather((recorder.events, mine, bounces))
    if RANK == 0:
        events, buffers, places = zip(*told, strict=True)
        layout = bounce_layout.layout(SIZE, buffer.nbytes, WORD)
        compare(plan.schedule, layout, [*replayed(events, buffers, places, bounce.nbytes)])
    plan.close()


# --- a schedule that is wrong ---


def without_a_row(schedule):
    """The same but for one transfer of its first step."""
    rows = schedule.steps[0].rows()
    return replace(schedule, steps=(Step.of(Rows(*(column[1:] for column in rows.columns))), *schedule.steps[1:]))


@pytest.mark.parametrize("where", ["messages", "in place", "bounce buffers"])
def test_a_wrong_schedule_gives_a_wrong_result_or_is_refused(comm, monkeypatch, where):
    pytest.importorskip("numba")
    original = Collective._schedule
    monkeypatch.setattr(Collective, "_schedule", lambda self: without_a_row(original(self)))
    buffer = hpcdist.empty(5000, "float64", comm) if where == "in place" else np.empty(5000)
    buffer[:] = 1
    if where == "bounce buffers":
        with pytest.raises(AgreedError, match="bounce buffers run one_shot and two_shot only"):
            hpcdist.plan(comm, buffer)
        return
    hpcdist.plan(comm, buffer, algorithm="shared" if where == "in place" else "direct")()
    assert not all(comm.allgather(bool((buffer == SIZE).all())))
