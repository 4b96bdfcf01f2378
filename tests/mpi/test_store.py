"""A store on several ranks: each byte written once, in the background, by all or by none; restored on any number."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from mpi4py import MPI

from hpcdist.checkpoint import DamagedCheckpoint, Store, committed, look, newest, part, read, saving
from hpcdist.checkpoint.writer import claim
from hpcdist.errors import AgreedError

pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD
OPTIONS: list[dict[str, Any]] = [{}, {"writers": COMM.size}, {"layout": "single"}, {"compression": "gzip"}]


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder of all ranks."""
    path = Path(COMM.bcast(mkdtemp() if COMM.rank == 0 else None))
    yield path
    COMM.Barrier()
    if COMM.rank == 0:
        shutil.rmtree(path)


def arrays(step: int) -> dict[str, np.ndarray]:
    return {
        "parameters": np.random.default_rng(step).normal(size=5003).astype(np.float32),
        "optimizer/velocity": np.arange(777.0).reshape(111, 7) * step,
        "few": np.arange(2, dtype=np.int64) + step,
        "scalar": np.array(step / 3),
        "empty": np.empty((0, 3), np.float16),
    }


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return {name: (v.shape, v.dtype, v.tobytes()) for name, v in a.items()} == {
        name: (v.shape, v.dtype, v.tobytes()) for name, v in b.items()
    }


def restored(store: Store, path: Path) -> dict[str, np.ndarray]:
    into = {name: np.full_like(values, 1) for name, values in arrays(1).items()}
    store.restore(look(path), into)
    return into


@pytest.mark.every_size
@pytest.mark.parametrize(
    "options", [{}, {"writers": COMM.size}, {"layout": "single"}, {"compression": "gzip"}], ids=str
)
@pytest.mark.parametrize("background", [True, False])
def test_what_is_saved_comes_back(shared: Path, options: dict[str, Any], background: bool) -> None:
    with Store(COMM, shared, keep=2, background=background, **options) as store:
        for step in (1, 2, 3):
            store.save(step, arrays(step), {"step": step})
        store.wait()
        assert [path.name for path in committed(shared)] == ["step-00000002", "step-00000003"]
        for path in committed(shared):
            step = look(path).step
            assert look(path).facts == {"step": step}
            assert equal(restored(store, path), arrays(step))
            assert equal(read(look(path)), arrays(step))
        checkpoint, damaged = store.newest()
        assert checkpoint
        assert (checkpoint.step, damaged) == (3, [])


def test_in_the_foreground_nothing_is_copied_and_arrays_may_have_any_order(shared: Path) -> None:
    state = {"turned": np.arange(600.0).reshape(20, 30).T, "every second": np.arange(40)[::2], "scalar": np.array(1.5)}
    with Store(COMM, shared, writers=COMM.size, background=False) as store:
        store.save(1, state, {})
        assert store._snapshot.memory == {}
        assert equal(read(look(committed(shared)[0])), state)


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("background", [True, False])
def test_an_interrupted_save_is_not_committed_and_the_run_can_go_on(
    shared: Path, monkeypatch: pytest.MonkeyPatch, background: bool, step: int
) -> None:
    """The disk is slow: it begins when the caller has been interrupted, has changed its arrays and saves again."""
    again, ended = threading.Event(), threading.Event()
    run, wait_written = saving.Saving._run, saving.Saving.wait_written
    savings: list[saving.Saving] = []

    def run_late(self: saving.Saving) -> None:
        savings.append(self)
        mine, other = (ended, again) if self is savings[0] else (again, ended)
        if mine is again:
            again.set()
        assert other.wait(10)
        run(self)
        mine.set()

    def interrupt(self: saving.Saving) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(saving.Saving, "_run", run_late)
    monkeypatch.setattr(saving.Saving, "wait_written", interrupt)
    state = arrays(1)
    with Store(COMM, shared, writers=COMM.size, background=background) as store:
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - a save in the background returns before it
            store.save(1, state, {})
            store.wait()
        monkeypatch.setattr(saving.Saving, "wait_written", wait_written)
        for name, values in arrays(2).items():
            state[name][...] = values
        store.save(step, state, {})
        store.wait()
        assert [path.name for path in shared.glob("step-*")] == [f"step-{step:08d}"]
        assert equal(restored(store, committed(shared)[0]), arrays(2))


def test_every_writer_has_a_file(shared: Path) -> None:
    with Store(COMM, shared, writers=COMM.size) as store:
        store.save(1, arrays(1), {})
        path = store.wait()
    assert path
    pieces = [piece for entry in look(path).manifest.arrays.values() for piece in entry.pieces]
    assert len({piece.file for piece in pieces}) == COMM.size
    assert len(list(path.glob("*.json"))) == 1  # announcements are gone


@pytest.mark.every_size
@pytest.mark.parametrize("piece", [64, 1000])
def test_saved_on_all_and_restored_on_fewer_and_the_other_way_round(
    shared: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(part.layout, "PIECE", piece)
    sizes = sorted({1, 2, COMM.size - 1, COMM.size} & set(range(1, COMM.size + 1)))
    for size in sizes:
        some = COMM.Split(int(COMM.rank < size))
        if COMM.rank < size:
            with Store(some, shared / str(size), writers=size) as store:
                store.save(size, arrays(size), {})
        some.Free()
    COMM.Barrier()
    for size in sizes:
        path = committed(shared / str(size))[0]
        some = COMM.Split(int(COMM.rank < size))
        for comm in (COMM, some):
            with Store(comm, shared / comm.bcast(f"reader-{COMM.rank}-{size}-{comm.size}")) as store:
                assert equal(restored(store, path), arrays(size))
        some.Free()


def test_the_arrays_may_be_changed_at_once(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = threading.Event()
    write_part = part.write_part

    def write_late(*arguments: Any) -> part.Part:
        assert changed.wait(30)
        return write_part(*arguments)

    monkeypatch.setattr(saving, "write_part", write_late)
    state = arrays(1)
    with Store(COMM, shared, writers=COMM.size) as store:
        store.save(1, state, {})
        assert committed(shared) == []
        for values in state.values():
            values.fill(99)
        changed.set()
        store.wait()
        assert equal(read(look(committed(shared)[0])), arrays(1))


def test_a_save_waits_for_the_one_before(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    under_way, most = [0], [0]
    write_part = part.write_part

    def count(*arguments: Any) -> part.Part:
        under_way[0] += 1
        most[0] = max(under_way[0], most[0])
        result = write_part(*arguments)
        under_way[0] -= 1
        return result

    monkeypatch.setattr(saving, "write_part", count)
    with Store(COMM, shared, keep=9, writers=COMM.size) as store:
        for step in range(1, 6):
            store.save(step, arrays(step), {})
    assert [look(path).step for path in committed(shared)] == [1, 2, 3, 4, 5]
    assert most == [1]


@pytest.mark.every_size
@pytest.mark.parametrize("victim", range(COMM.size))
def test_a_writer_that_fails_is_everybodys_error_and_nothing_is_lost(
    shared: Path, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    with Store(COMM, shared, keep=1, writers=COMM.size) as store:
        store.save(1, arrays(1), {})
        store.wait()

        def fail(descriptor: int, raw: Any, offset: int) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        if COMM.rank == victim:
            monkeypatch.setattr(os, "pwrite", fail)
        store.save(2, arrays(2), {})
        with pytest.raises(AgreedError, match=rf"rank {victim}: .*No space left"):
            store.wait()
        monkeypatch.undo()
        COMM.Barrier()
        assert [path.name for path in shared.glob("step-*")] == ["step-00000001"]
        COMM.Barrier()
        store.save(2, arrays(2), {})
        store.wait()
        assert equal(restored(store, committed(shared)[-1]), arrays(2))


def test_whoever_fails_knows_it_before_it_is_asked(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def fail(*arguments: Any) -> part.Part:
        failed.set()
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    if COMM.rank == COMM.size - 1:
        monkeypatch.setattr(saving, "write_part", fail)
    store = Store(COMM, shared, writers=COMM.size)
    store.save(1, arrays(1), {})
    if COMM.rank == COMM.size - 1:
        assert failed.wait(30)
        while not store.failed:
            pass
    with pytest.raises(AgreedError, match="Input/output error"):
        store.save(2, arrays(2), {})
    assert not store.failed
    store.close()


def test_another_run_that_takes_the_directory_is_everybodys_error(shared: Path) -> None:
    store = Store(COMM, shared, writers=COMM.size)
    if COMM.rank == 0:
        claim(shared)
    COMM.Barrier()
    with pytest.raises(AgreedError, match="taken over by another run"):
        store.save(1, arrays(1), {})
    store.close()
    assert committed(shared) == []


def test_damage_on_one_rank_is_everybodys(shared: Path) -> None:
    with Store(COMM, shared, writers=COMM.size) as store:
        store.save(1, arrays(1), {})
        path = store.wait()
        assert path
        lost = look(path).manifest.arrays["parameters"].pieces[-1].file
        checkpoint = look(path)
        COMM.Barrier()
        if COMM.rank == 0:
            (path / lost).write_bytes(b"damaged")
        COMM.Barrier()
        with pytest.raises(DamagedCheckpoint, match="cannot be read"):
            store.restore(checkpoint, arrays(1))
        found, damaged = store.newest()
        assert found is None
        assert [error.path for error in damaged] == [path]
        COMM.Barrier()
        assert newest(shared) == (None, [])


@pytest.mark.parametrize("best", [np.inf, np.nan, {1}], ids=str)
def test_facts_that_json_cannot_hold_are_refused_by_all_before_anything_is_written(shared: Path, best: Any) -> None:
    with Store(COMM, shared) as store:
        with pytest.raises(AgreedError, match="the facts are not what JSON can hold"):
            store.save(1, arrays(1), {"best_loss": best})
        assert not [path for path in shared.iterdir() if "step" in path.name]
        store.save(2, arrays(2), {"best_loss": None})
        store.wait()
    assert [path.name for path in committed(shared)] == ["step-00000002"]


def test_facts_are_those_of_the_moment(shared: Path) -> None:
    facts: dict[Any, Any] = {9: "nine", 10: "ten", "list": [1]}
    with Store(COMM, shared) as store:
        store.save(1, arrays(1), facts)
        facts["list"].append(2)
        path = store.wait()
        assert path
        assert look(path).facts == {"9": "nine", "10": "ten", "list": [1]}
        with pytest.raises(AgreedError, match="not JSON serializable"):
            store.save(2, arrays(2), {"set": {1}})


def test_arrays_of_other_shapes_are_saved_anew(shared: Path) -> None:
    with Store(COMM, shared) as store:
        store.save(1, {"x": np.zeros(1000, np.float32)}, {})
        store.save(2, {"x": np.zeros(1000, np.int32)}, {})
        path = store.wait()
        assert path
        into = {"x": np.ones(1000, np.int32)}
        store.restore(look(path), into)
        assert not into["x"].any()


def test_trouble_with_one_node_is_not_damage(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(COMM, shared) as store:
        store.save(1, arrays(1), {})
        path = store.wait()
        assert path
        damaged = DamagedCheckpoint(path, "cannot be read there")
        with pytest.raises(AgreedError, match="rank 0 reads it whole"):
            store.put_aside(damaged)
        assert committed(shared) == [path]


def test_ranks_must_restore_the_same(shared: Path) -> None:
    with Store(COMM, shared) as store:
        store.save(1, arrays(1), {})
        path = store.wait()
        assert path
        into = arrays(2)
        if COMM.rank == COMM.size - 1 > 0:
            del into["few"]
        backwards = dict(reversed(into.items())) if COMM.rank % 2 else into
        if COMM.size > 1:
            with pytest.raises(AgreedError, match="wants to read"):
                store.restore(look(path), backwards)
        full = arrays(2)
        store.restore(look(path), dict(reversed(full.items())) if COMM.rank % 2 else full)
        assert equal(full, arrays(1))
        full["few"].flags.writeable = False
        with pytest.raises(AgreedError, match="few cannot be read into"):
            store.restore(look(path), full)


def test_ranks_must_make_the_same_store(shared: Path) -> None:
    if COMM.size > 1:
        with pytest.raises(AgreedError, match="makes another store"):
            Store(COMM, shared, background=COMM.rank == 0)


def test_ranks_must_save_the_same(shared: Path) -> None:
    with Store(COMM, shared) as store:
        state = arrays(1)
        if COMM.rank == COMM.size - 1 > 0:
            state["parameters"] = state["parameters"][1:]
            with pytest.raises(AgreedError, match=f"rank {COMM.size - 1} saves another step"):
                store.save(1, state, {})
        elif COMM.size > 1:
            with pytest.raises(AgreedError, match=f"rank {COMM.size - 1} saves another step"):
                store.save(1, state, {})
        store.save(1, arrays(1), {})


def test_what_does_not_fit_is_said(shared: Path) -> None:
    with Store(COMM, shared) as store:
        store.save(1, arrays(1), {})
        path = store.wait()
        assert path
        with pytest.raises(AgreedError, match="parameters is <f4"):
            store.restore(look(path), {"parameters": np.zeros(3)})
        with pytest.raises(AgreedError, match="has no array other; it has parameters,"):
            store.restore(look(path), {"other": np.zeros(3)})
        with pytest.raises(AgreedError, match="bfloat16, which HDF5 does not know"):
            store.save(2, {"half": np.zeros(3, ml_dtypes.bfloat16)}, {})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"keep": 0}, "at least 1, got 0"),
    ({"layout": "other"}, "choose from shards, single, collective"),
    ({"writers": COMM.size + 1}, f"{COMM.size + 1} of {COMM.size} ranks cannot write"),
    ({"compression": "lzma"}, "choose from none, gzip"),
]


@pytest.mark.parametrize(("options", "why"), WRONG, ids=str)
def test_wrong_arguments_are_refused(shared: Path, options: dict[str, Any], why: str) -> None:
    with pytest.raises(AgreedError, match=why):
        Store(COMM, shared, **options)


def test_what_a_save_took_is_known(shared: Path) -> None:
    with Store(COMM, shared) as store:
        assert store.last is None
        store.save(1, arrays(1), {})
        store.wait()
        assert store.last
        assert store.last.nbytes == sum(values.nbytes for values in arrays(1).values())
        assert store.last.blocking > 0
        assert store.last.total > 0
