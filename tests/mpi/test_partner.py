"""Partner copies: every share in two memories, found again by other ranks on other nodes, or said to be missing.

Nodes are folders here, and the topology says which rank is on which; tests/cluster has real hosts.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.checkpoint import layout
from hpcdist.checkpoint.partner import PartnerCopies, Recovery, contents, copies, exchange, memory, recovery
from hpcdist.checkpoint.partner.placement import members, partners
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.mpi.collective_errors import on_root

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
RANK, SIZE = COMM.rank, COMM.size
KEY = "test"
FACTS = {"position": [1, 2.5, "three"]}

TOPOLOGIES: dict[str, Callable[[int], list[int]]] = {
    "a rank per node": lambda size: list(range(size)),
    "two ranks per node": lambda size: [rank // 2 for rank in range(size)],
    "cyclic": lambda size: [rank % 2 for rank in range(size)],
    "uneven": lambda size: [int(rank > 0) for rank in range(size)],
    "one node": lambda size: [0] * size,
}


def arrays(step: int) -> dict[str, NDArray]:
    random = np.random.default_rng(step)
    return {
        "weights": random.normal(size=(37, 5)).astype(np.float32),
        "columns": np.asfortranarray(random.normal(size=(6, 4))),
        "every second": random.integers(0, 1 << 60, 40)[::2],
        "scalar": np.array(step + 0.5),
        "empty": np.empty((0, 3), np.int64),
        "mask": random.integers(0, 2, 11).astype(bool),
    }


@pytest.fixture
def shared() -> Iterator[Path]:
    """A new directory, the same on all ranks."""
    holder = tempfile.TemporaryDirectory() if RANK == 0 else None
    yield Path(COMM.bcast(holder.name if holder else None))
    COMM.Barrier()
    if holder:
        holder.cleanup()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these small arrays go in several pieces and messages."""
    monkeypatch.setattr(layout, "PIECE", 64)
    monkeypatch.setattr(exchange, "SEGMENT", 48)


def folder(shared: Path, node: int | str) -> Path:
    path = shared / f"node{node}"
    path.mkdir(exist_ok=True)
    return path


def begin(
    shared: Path,
    topology: Sequence[int],
    comm: MPI.Intracomm = COMM,
    names: Sequence[int | str] | None = None,
    **more: Any,
) -> PartnerCopies:
    """A run whose ranks are on these nodes; `names` are those of the nodes."""
    node = topology[comm.rank]
    return PartnerCopies(comm, KEY, folder(shared, names[node] if names else node), topology, **more)


def run(shared: Path, topology: Sequence[int], steps: Sequence[int], **more: Any) -> None:
    """Start a run, save at these steps, and end as if killed."""
    started = begin(shared, topology, **more)
    for step in steps:
        started.save(step, arrays(step), FACTS)
    started.close()


def recovered(started: PartnerCopies, comm: MPI.Intracomm = COMM) -> int | None:
    """The step that all ranks find and restore, bit by bit."""
    found = started.newest()
    if found:
        assert found.facts == FACTS
        check_restored(started, found)
    steps = comm.allgather(found.step if found else None)
    assert len(set(steps)) == 1
    assert len({tuple(notes) for notes in comm.allgather(started.notes)}) == 1
    return steps[0]


def check_restored(started: PartnerCopies, found: Recovery) -> None:
    expected = arrays(found.step)
    into = {name: np.full(entry.shape, 1, entry.dtype) for name, entry in found.manifest.arrays.items()}
    started.restore(found, into)
    assert list(into) == list(expected)
    for name, values in into.items():
        assert (values.shape, values.dtype) == (expected[name].shape, expected[name].dtype)
        assert values.tobytes() == expected[name].tobytes(), name


def again(shared: Path, topology: Sequence[int], **more: Any) -> tuple[int | None, list[str]]:
    """What a new job recovers, and what it says."""
    started = begin(shared, topology, **more)
    step = recovered(started, more.get("comm", COMM))
    started.close()
    return step, started.notes


def once(action: Callable[[], Any]) -> Any:
    """Do something to the files, on rank 0."""
    return on_root(COMM, action)


def generations(shared: Path) -> dict[str, list[str]]:
    """Node -> names of what it keeps."""
    return once(lambda: {node.name: sorted(path.name for path in node.glob("*/*/*")) for node in shared.glob("node*")})


def copies_of(shared: Path, share: int, step: int = 5) -> list[Path]:
    """Both copies of a share, that of the owner first."""
    found = shared.glob(f"node*/*/{KEY}/step-{step:08d}.*/share-{share:04d}-*")
    return sorted(found, key=lambda path: path.suffix)


# --- saved, restored ---


@pytest.mark.every_size
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_what_is_saved_comes_back(shared: Path, name: str) -> None:
    topology = TOPOLOGIES[name](SIZE)
    run(shared, topology, [5])
    assert again(shared, topology) == (5, [])


def test_nodes_are_found_by_themselves(shared: Path) -> None:
    started = PartnerCopies(COMM, KEY, shared)
    assert recovered(started) is None
    started.save(5, arrays(5), FACTS)
    assert recovered(started) == 5
    assert started.note == (copies.ALONE if SIZE == 1 else copies.ONE_NODE)
    started.close()


@pytest.mark.every_size
def test_each_share_is_in_two_places_but_with_one_rank(shared: Path) -> None:
    run(shared, TOPOLOGIES["two ranks per node"](SIZE), [5])
    for share in range(SIZE):
        found = copies_of(shared, share)
        assert len({path.read_bytes() for path in found}) == 1
        assert len({path.parts[-5:][0] for path in found}) == len(found) == (1 if SIZE == 1 else 2) or SIZE == 2
    assert sum(copies_of(shared, share)[0].stat().st_size for share in range(SIZE)) == sum(
        values.nbytes for values in arrays(5).values()
    )


def test_only_the_newest_state_is_kept(shared: Path) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    run(shared, topology, [1, 2, 5], token="mine")
    assert all(names == ["step-00000005.mine"] for names in generations(shared).values())


@pytest.mark.every_size
def test_other_numbers_of_ranks_on_the_same_nodes(shared: Path) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    nodes = len(set(topology))
    fewer = COMM.Split(0 if nodes > RANK else MPI.UNDEFINED)
    run(shared, topology, [5])
    if fewer != MPI.COMM_NULL:
        assert again(shared, range(nodes), comm=fewer) == (5, [])
        run(shared, range(nodes), [6], comm=fewer)
        fewer.Free()
    assert again(shared, topology) == (6, [])


@pytest.mark.every_size
def test_ranks_that_are_placed_otherwise(shared: Path) -> None:
    run(shared, TOPOLOGIES["cyclic"](SIZE), [5])
    placed = TOPOLOGIES["uneven"](SIZE)[::-1]
    assert again(shared, [1 - node for node in placed] if SIZE > 1 else [0]) == (5, [])


def test_several_starts_of_a_run(shared: Path) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    run(shared, topology, [1, 2])
    started = begin(shared, topology)
    assert recovered(started) == 2
    started.save(2, arrays(2), FACTS)  # to have both copies again
    started.save(4, arrays(4), FACTS)
    assert recovered(started) == 4
    assert all(len(names) == 1 for names in generations(shared).values())
    started.close()


def test_no_file_is_read_twice(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    run(shared, topology, [5])
    seen: list[Path] = []

    def counted(path: Path, *arguments: Any) -> None:
        seen.append(path)
        contents.read(path, *arguments)

    monkeypatch.setattr(recovery, "read", counted)
    started = begin(shared, topology)
    found = started.newest()
    looked = Counter(path for each in COMM.allgather(seen) for path in each)
    assert len(looked) == (1 if SIZE == 1 else 2 * SIZE)
    assert set(looked.values()) == {1}
    seen.clear()
    assert found
    check_restored(started, found)
    read = Counter(path.name.removesuffix(".copy") for each in COMM.allgather(seen) for path in each)
    assert read == {f"share-{share:04d}-of-{SIZE:04d}": 1 for share in range(SIZE)}
    assert max(COMM.allgather(len(seen))) == 1  # each reads one
    started.close()


def test_arrays_that_are_left_out_are_not_read(shared: Path) -> None:
    run(shared, [0] * SIZE, [5])
    started = begin(shared, [0] * SIZE)
    found = started.newest()
    assert found
    into = {"columns": np.zeros((6, 4))}
    started.restore(found, into)
    np.testing.assert_array_equal(into["columns"], arrays(5)["columns"])
    started.close()


# --- nodes that are lost ---


@pytest.mark.every_size
@pytest.mark.parametrize("name", TOPOLOGIES)
def test_any_one_node_may_be_replaced_by_a_spare(shared: Path, name: str) -> None:
    topology = TOPOLOGIES[name](SIZE)
    nodes = sorted(set(topology))
    if len(nodes) == 1:
        pytest.skip("there is one node")
    run(shared, topology, [5])
    for lost in nodes:
        assert again(shared, topology, names=[f"spare{lost}" if node == lost else node for node in nodes]) == (5, [])


@pytest.mark.every_size
@pytest.mark.skipif(SIZE < 3, reason="two nodes are to be lost, and one left")
@pytest.mark.parametrize("name", ["a rank per node", "two ranks per node"])
def test_what_is_missing_is_said_when_two_nodes_are_lost(shared: Path, name: str) -> None:
    topology = TOPOLOGIES[name](SIZE)
    nodes = members(topology)
    if len(nodes) < 3:
        pytest.skip("there are two nodes")
    run(shared, topology, [5], token="mine")
    partner = partners(topology)
    fatal = 0
    for lost in itertools.combinations(range(len(nodes)), 2):
        gone = [rank for rank in range(SIZE) if topology[rank] in lost and topology[partner[rank]] in lost]
        names = [f"spare{node}" if node in lost else node for node in range(len(nodes))]
        step, notes = again(shared, topology, names=names)
        assert step == (None if gone else 5)
        assert len(notes) == bool(gone)
        assert all(f"share-{rank:04d}-of-{SIZE:04d}, which rank" in notes[0] for rank in gone[:4])
        fatal += bool(gone)
    assert fatal == (len(nodes) // 2 if len(nodes) % 2 == 0 else len(nodes))


# --- damage ---


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "torn": (lambda path: os.truncate(path, path.stat().st_size - 1), "bytes, .* were written"),
    "emptied": (lambda path: os.truncate(path, 0), "it has 0 bytes"),
    "a bit flipped": (flip, "do not fit their digest"),
    "lost": (lambda path: path.unlink(), ""),
    "a directory": (lambda path: (path.unlink(), path.mkdir()), "it has|Is a directory"),
}


@pytest.mark.every_size
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_copy_is_named_and_the_other_used(shared: Path, damage: str) -> None:
    harm, why = DAMAGES[damage]
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    run(shared, topology, [5])
    both = once(lambda: copies_of(shared, 0))
    for number, path in enumerate(both):
        once(lambda path=path: shutil.copy(path, shared / "whole"))
        once(lambda path=path: harm(path))
        step, notes = again(shared, topology)
        assert step == (5 if SIZE > 1 else None)
        if why:
            assert re.search(why, notes[0])
            assert str(path) in notes[0]
        if number == 0 and SIZE > 1:
            once(lambda path=path: (path.rmdir() if path.is_dir() else None, shutil.copy(shared / "whole", path)))


@pytest.mark.parametrize("damage", DAMAGES)
def test_both_copies_damaged_are_no_state(shared: Path, damage: str) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    run(shared, topology, [5])
    once(lambda: [DAMAGES[damage][0](path) for path in copies_of(shared, SIZE - 1)])
    step, notes = again(shared, topology)
    assert step is None
    assert f"1 of {SIZE} shares: share-{SIZE - 1:04d}-of-{SIZE:04d}, which rank" in notes[-1]
    assert f"rank {SIZE - 1} on {MPI.Get_processor_name()}" in notes[-1]


MANIFEST_DAMAGES: dict[str, Callable[[Path], Any]] = {
    "lost": lambda path: path.unlink(),
    "cut": lambda path: os.truncate(path, 100),
    "facts edited": lambda path: path.write_text(path.read_text().replace("three", "threw")),
    "not text": lambda path: path.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", MANIFEST_DAMAGES)
def test_a_damaged_manifest_is_replaced_by_another_nodes(shared: Path, damage: str) -> None:
    topology = TOPOLOGIES["uneven"](SIZE)
    run(shared, topology, [5])
    paths = once(lambda: sorted(shared.glob(f"node*/*/{KEY}/*/manifest.json")))
    for number, path in enumerate(paths):
        once(lambda path=path: MANIFEST_DAMAGES[damage](path))
        step, notes = again(shared, topology)
        assert step == (5 if number + 1 < len(paths) else None)
        assert str(path.parent) in "".join(notes)


def test_a_manifest_in_the_wrong_place_is_none(shared: Path) -> None:
    run(shared, [0] * SIZE, [5], token="mine")
    once(lambda: [path.rename(path.with_name("step-00000009.mine")) for path in shared.glob(f"node*/*/{KEY}/step-*")])
    step, notes = again(shared, [0] * SIZE)
    assert step is None
    assert "is that of step-00000005.mine" in notes[0]


def test_damage_between_finding_and_restoring_is_an_error_everywhere(shared: Path) -> None:
    run(shared, [0] * SIZE, [5])
    started = begin(shared, [0] * SIZE)
    found = started.newest()
    assert found
    once(lambda: [flip(path) for path in copies_of(shared, 0)])
    with pytest.raises(AgreedError, match=r"share-0000.*do not fit their digest"):
        check_restored(started, found)
    started.close()


def test_a_state_that_is_not_whole_everywhere_is_passed_over(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when a job is killed after some nodes have committed, and one of these is then lost."""
    topology = TOPOLOGIES["a rank per node"](SIZE)
    run(shared, topology, [5], token="first")
    once(lambda: [shutil.copytree(path, shared / "kept" / path.parts[-4]) for path in shared.glob(f"node*/*/{KEY}/*")])
    run(shared, topology, [6], token="second")
    for node in range(SIZE):
        mine = folder(shared, node) / f"hpcdist-{os.getuid()}" / KEY
        once(
            lambda mine=mine, node=node: shutil.copytree(shared / "kept" / f"node{node}", mine / "step-00000005.first")
        )
    assert again(shared, topology) == (6, [])
    once(lambda: [path.unlink() for path in copies_of(shared, SIZE - 1, 6)])
    step, notes = again(shared, topology)
    assert step == 5
    assert "step 6 (run second) cannot be used" in notes[0]

    there: list[set[str]] = []

    def check_room(self: memory.NodeMemory, needed: int) -> None:
        there.append(self.names())

    monkeypatch.setattr(memory.NodeMemory, "_check_room", check_room)
    started = begin(shared, topology)
    assert recovered(started) == 5
    started.save(7, arrays(7), FACTS)
    assert there == [{"step-00000005.first"}]  # what is of no use goes before the next is written, the rest after
    assert recovered(started) == 7
    assert all(len(names) == 1 for names in generations(shared).values())
    started.close()


# --- what goes wrong while saving ---


def assert_kept(shared: Path, topology: Sequence[int], step: int) -> None:
    """That this state is whole, and no draft of another is left."""
    assert again(shared, topology)[0] == step
    assert not any(name.endswith(".tmp") for names in generations(shared).values() for name in names)


@pytest.fixture
def little() -> Iterator[Path]:
    """A memory file system of 512 KiB."""
    path = Path(COMM.bcast(tempfile.mkdtemp() if RANK == 0 else None))
    problem = COMM.bcast(_mount(path) if RANK == 0 else None)
    if problem:
        pytest.skip(problem)
    yield path
    COMM.Barrier()
    if RANK == 0:
        subprocess.run(["umount", str(path)], check=True)
        path.rmdir()


def _mount(path: Path) -> str | None:
    if os.geteuid() != 0 or not shutil.which("mount"):
        return "only root can make a small disk"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(path)], capture_output=True)
    return f"cannot mount here: {done.stderr.decode()}" if done.returncode else None


LARGE = {"large": np.arange(1 << 16, dtype=np.float64)}  # 512 KiB


def test_too_little_room_is_refused_with_numbers(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "SEGMENT", 1 << 20)
    monkeypatch.setattr(layout, "PIECE", 1 << 20)
    started = PartnerCopies(COMM, KEY, little)
    started.save(1, arrays(1), FACTS)
    needed = "512 KiB" if SIZE == 1 else r"1(\.0\d*)? MiB"
    with pytest.raises(
        AgreedError, match=rf"need {needed} on this node.*there are \d+ KiB free of 512 KiB in {little}"
    ):
        started.save(2, LARGE, {})
    assert recovered(started) == 1
    started.save(3, arrays(3), FACTS)
    assert recovered(started) == 3
    started.close()


def test_memory_that_others_take_meanwhile_is_an_error(little: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.NodeMemory, "_check_room", lambda self, needed: None)
    started = PartnerCopies(COMM, KEY, little)
    started.save(1, arrays(1), FACTS)
    with pytest.raises(AgreedError, match=r"No space left on device; no room for .* those before are as they were"):
        started.save(2, LARGE, {})
    assert recovered(started) == 1
    assert not list(little.rglob("*.tmp"))
    started.save(2, arrays(2), FACTS)
    assert recovered(started) == 2
    started.close()


@pytest.mark.skipif(SIZE == 1, reason="nothing is sent")
def test_what_is_changed_on_its_way_is_not_kept(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = TOPOLOGIES["a rank per node"](SIZE)
    started = begin(shared, topology)
    started.save(1, arrays(1), FACTS)

    def badly(transport: Any, outgoing: Mapping[int, NDArray], incoming: Mapping[int, NDArray]) -> Any:
        trouble = exchange.exchange(transport, outgoing, incoming)
        if RANK == 1:
            next(iter(incoming.values()))[0] ^= 1
        return trouble

    monkeypatch.setattr(copies, "exchange", badly)
    with pytest.raises(AgreedError, match="is not what rank 1 has received"):
        started.save(2, arrays(2), FACTS)
    monkeypatch.undo()
    assert_kept(shared, topology, 1)
    started.save(2, arrays(2), FACTS)
    assert_kept(shared, topology, 2)
    started.close()


@pytest.mark.skipif(SIZE == 1, reason="nothing is sent")
def test_a_message_of_another_length_is_an_error_everywhere(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = TOPOLOGIES["a rank per node"](SIZE)
    started = begin(shared, topology)
    started.save(1, arrays(1), FACTS)

    def too_little(transport: Any, outgoing: Mapping[int, NDArray], incoming: Mapping[int, NDArray]) -> Any:
        return exchange.exchange(transport, {peer: each[:-1] for peer, each in outgoing.items()}, incoming)

    monkeypatch.setattr(copies, "exchange", too_little)
    with pytest.raises(AgreedError, match=r"bytes where .* were due"):
        started.save(2, arrays(2), FACTS)
    assert_kept(shared, topology, 1)
    started.close()


def test_a_node_that_cannot_commit_spoils_nothing(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    topology = TOPOLOGIES["a rank per node"](SIZE)
    started = begin(shared, topology)
    started.save(1, arrays(1), FACTS)
    commit = memory.NodeMemory.commit

    def fail(self: memory.NodeMemory, *arguments: Any) -> None:
        if RANK == SIZE - 1:
            raise OSError(5, os.strerror(5))
        commit(self, *arguments)

    monkeypatch.setattr(memory.NodeMemory, "commit", fail)
    with pytest.raises(AgreedError, match=f"rank {SIZE - 1}: OSError.*Input/output error"):
        started.save(2, arrays(2), FACTS)
    monkeypatch.undo()
    assert_kept(shared, topology, 2 if SIZE > 1 else 1)  # each share is in two places, one of which has committed
    started.save(2, arrays(2), FACTS)
    assert_kept(shared, topology, 2)
    monkeypatch.setattr(memory.NodeMemory, "commit", fail)
    with pytest.raises(AgreedError, match="OSError"):
        started.save(3, arrays(3), FACTS)
    monkeypatch.undo()
    started.save(4, arrays(4), FACTS)
    assert_kept(shared, topology, 4)
    assert all(len(names) == 1 for names in generations(shared).values())
    started.close()


def test_memory_that_nodes_share_is_refused(shared: Path) -> None:
    if SIZE == 1:
        pytest.skip("there is one node")
    started = PartnerCopies(COMM, KEY, shared, range(SIZE))
    with pytest.raises(AgreedError, match="has just been made by another node"):
        started.save(1, arrays(1), FACTS)
    started.close()


def test_what_another_start_keeps_meanwhile_is_left_alone(shared: Path) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    old, new = begin(shared, topology, token="old"), begin(shared, topology, token="new")
    old.save(5, arrays(5), FACTS)
    new.save(3, arrays(3), FACTS)  # went back to an older checkpoint: removes what is there
    assert all(names == ["step-00000003.new"] for names in generations(shared).values())
    old.save(6, arrays(6), FACTS)  # an orphan
    new.save(7, arrays(7), FACTS)
    assert all(names == ["step-00000006.old", "step-00000007.new"] for names in generations(shared).values())
    assert recovered(new) == 7
    old.close()
    new.close()


# --- arguments ---


def assert_refused(call: Callable[[], Any], needed: str) -> None:
    with pytest.raises(ArgumentError, match=needed) as raised:
        call()
    assert len(set(COMM.allgather(str(raised.value)))) == 1


def test_bad_arguments_are_refused_by_all_ranks_alike(shared: Path) -> None:
    last = RANK == SIZE - 1
    started = begin(shared, [0] * SIZE)
    started.save(3, arrays(3), FACTS)
    assert_refused(lambda: started.save(3, arrays(3), FACTS), "after step 3 is kept already")
    assert_refused(lambda: started.save(-1 if last else 4, arrays(3), FACTS), "step must be a number")
    assert_refused(lambda: started.save(4, {"x": np.array([None])}, FACTS), "x: arrays of Python objects")
    assert_refused(lambda: started.save(4, arrays(4), {"x": object()} if last else {}), "JSON can hold")
    if SIZE > 1:
        assert_refused(lambda: started.save(5 if last else 4, arrays(4), FACTS), f"rank {SIZE - 1} keeps another step")
        other = {"weights": np.zeros(3)} if last else arrays(4)
        assert_refused(lambda: started.save(4, other, FACTS), "names, shapes or dtypes")
    assert recovered(started) == 3
    started.close()


def test_arrays_that_do_not_fit_are_refused(shared: Path) -> None:
    last = RANK == SIZE - 1
    started = begin(shared, [0] * SIZE)
    started.save(3, arrays(3), FACTS)
    found = started.newest()
    assert found
    wrong: list[tuple[NDArray, str]] = [
        (np.zeros((37, 6), np.float32), "weights is <f4.37, 5. in the partner copies, and <f4.37, 6. here"),
        (np.zeros((37, 5), np.float64), "and <f8"),
        (np.zeros((37, 5), np.float32, order="F"), "must be C-contiguous"),
    ]
    for values, why in wrong:
        into = {"weights": values if last else np.zeros((37, 5), np.float32)}
        assert_refused(lambda into=into: started.restore(found, into), why)
    assert_refused(lambda: started.restore(found, {"bias": np.zeros(1)}), "no array bias; they have weights, columns")
    if SIZE > 1:
        into = {"scalar": np.zeros(())} if last else {}
        assert_refused(lambda: started.restore(found, into), "do not restore the same arrays")
    check_restored(started, found)
    started.close()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"key": "../up"}, "not '../up'"),
        ({"key": ""}, "not ''"),
        ({"key": "good", "topology": [0] * (SIZE + 1)}, "one per rank"),
        ({"key": "good", "token": "a/b"}, "not 'a/b'"),
    ],
)
def test_a_bad_key_topology_or_token_is_refused(arguments: dict[str, Any], why: str) -> None:
    assert_refused(lambda: PartnerCopies(COMM, **arguments), why)


@pytest.mark.skipif(SIZE == 1, reason="there is one rank")
def test_ranks_must_give_the_same_key() -> None:
    assert_refused(lambda: PartnerCopies(COMM, f"key{RANK}"), "rank 1 gives other key")


def test_a_folder_that_is_not_there_is_an_error(shared: Path) -> None:
    started = PartnerCopies(COMM, KEY, shared / "none")
    assert started.newest() is None
    with pytest.raises(AgreedError, match="no such folder for partner copies"):
        started.save(1, arrays(1), FACTS)
    started.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_folder_of_somebody_else_is_not_used(shared: Path) -> None:
    user = shared / f"hpcdist-{os.getuid()}"
    once(lambda: (user.mkdir(), os.chown(user, 12345, -1)))
    started = PartnerCopies(COMM, KEY, shared)
    for call in (started.newest, lambda: started.save(1, arrays(1), FACTS), started.forget):
        with pytest.raises(AgreedError, match="is not a directory of user 0, but of 12345"):
            call()
    started.close()


def test_others_cannot_read_the_copies(shared: Path) -> None:
    run(shared, [0] * SIZE, [1])
    assert once(lambda: {path.stat().st_mode & 0o077 for path in shared.glob("node*/hpcdist-*")}) == {0}


# --- the end ---


def test_nothing_is_left_of_a_run_that_is_forgotten(shared: Path) -> None:
    topology = TOPOLOGIES["two ranks per node"](SIZE)
    started = begin(shared, topology)
    started.forget()  # there is nothing yet
    started.save(1, arrays(1), FACTS)
    other = PartnerCopies(COMM, "other", folder(shared, topology[RANK]), topology)
    other.save(1, arrays(1), FACTS)
    started.forget()
    assert recovered(started) is None
    assert recovered(other) == 1
    other.forget()
    assert all(names == [] for names in generations(shared).values())
    assert once(lambda: list(shared.rglob("hpcdist-*"))) == []
    started.save(1, arrays(1), FACTS)  # it is as new
    assert recovered(started) == 1
    started.close()
    other.close()


def test_the_manifest_says_who_keeps_what(shared: Path) -> None:
    topology = TOPOLOGIES["a rank per node"](SIZE)
    started = begin(shared, topology)
    started.save(5, arrays(5), {"rank": RANK})  # rank 0's are kept
    found = started.newest()
    assert found
    assert found.facts == {"rank": 0}
    started.close()
    texts = once(lambda: [path.read_text() for path in shared.glob("node*/*/*/*/manifest.json")])
    assert len(texts) == SIZE
    assert len(set(texts)) == 1
    holders = json.loads(texts[0])["manifest"]["facts"]["holders"]
    pairs = [{rank for rank, _ in holders[share]} for share in sorted(holders)]
    assert pairs == [{rank, partner} for rank, partner in enumerate(partners(topology))]
