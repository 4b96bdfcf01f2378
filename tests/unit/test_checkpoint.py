"""Checkpoints under killed writers, damage, and two runs that want the same directory. Ranks are threads here."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hpcdist.checkpoint import (
    DamagedCheckpoint,
    Fence,
    FencedOut,
    committed,
    fence,
    hdf5,
    layout,
    look,
    newest,
    part,
    read,
    reader,
    unchanged,
    writer,
)
from hpcdist.checkpoint.layout import MANIFEST, STATE, directory_name, shapes_of, shard_name
from hpcdist.checkpoint.saving import Order, Saving
from hpcdist.checkpoint.shares import own_rows, writers_of
from hpcdist.checkpoint.unchanged import Previous, head
from hpcdist.checkpoint.writer import claim

KILLED = 9
FACTS = {"list": [1, 2.5, "three"]}


def arrays(step: int) -> dict[str, np.ndarray]:
    return {
        "parameters": np.random.default_rng(step).normal(size=5000).astype(np.float32),
        "optimizer/velocity": np.arange(7.0) * step,
        "matrix": np.arange(21, dtype=np.int64).reshape(7, 3) + step,
        "scalar": np.array(step / 3),
        "empty": np.empty((0, 3), np.int64),
    }


def save(owner: Fence, step: int, *, keep: int = 3, writers: int = 1, state: Any = None, **options: Any) -> Path:
    """Save as so many ranks do; returns the committed checkpoint."""
    state = arrays(step) if state is None else state
    plan = writers_of(state, range(writers), writers)
    order = Order(owner, writer.begin(owner, step), step, FACTS, shapes_of(state), plan, keep, **options)
    ranks = [Saving(order, rank) for rank in range(writers)]
    for rank in ranks:
        rank.start(own_rows(state, order.share(rank.rank)))
    for rank in ranks:
        rank.wait_written()
    try:
        for rank in ranks:
            rank.check()
        return ranks[0].outcome()[0]
    except Exception:
        ranks[0].abandon()
        raise


def steps(directory: Path) -> list[int]:
    """Steps of all committed checkpoints, each of which is read and compared with what was saved."""
    found = [look(path) for path in committed(directory)]
    for checkpoint in found:
        got, expected = read(checkpoint), arrays(checkpoint.step)
        assert checkpoint.path.name == directory_name(checkpoint.step)
        assert checkpoint.facts == FACTS
        assert same(got, expected)
    return [checkpoint.step for checkpoint in found]


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return {name: (v.shape, v.dtype, v.tobytes()) for name, v in a.items()} == {
        name: (v.shape, v.dtype, v.tobytes()) for name, v in b.items()
    }


def newest_step(directory: Path) -> int:
    checkpoint, damaged = newest(directory)
    assert checkpoint
    assert not damaged
    return checkpoint.step


@pytest.fixture(params=[1, 3])
def writers(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.mark.parametrize("compression", layout.COMPRESSIONS)
@pytest.mark.parametrize(("piece", "block"), [(100, 1 << 20), (300, 70), (64 << 20, 1 << 20), (64 << 20, 4096)])
def test_what_is_saved_comes_back(
    tmp_path: Path, writers: int, compression: str, piece: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PIECE", piece)
    monkeypatch.setattr(hdf5, "BLOCK", block)
    directory = tmp_path / "deep" / "er"
    owner = claim(directory)
    assert newest(directory) == (None, [])
    save(owner, 20, writers=writers, compression=compression)
    save(owner, 100, writers=writers, compression=compression)
    assert steps(directory) == [20, 100]
    claim(directory)
    assert newest_step(directory) == 100


@pytest.mark.parametrize("writers", [1, 2, 5])
def test_state_h5_shows_the_whole_to_whatever_reads_hdf5(tmp_path: Path, writers: int) -> None:
    path = save(claim(tmp_path), 7, writers=writers)
    moved = path.rename(tmp_path / "elsewhere")  # names in the index are relative
    with h5py.File(moved / STATE) as file:
        assert same({name: file[name][()] for name in arrays(7)}, arrays(7))
    assert len(list(moved.glob("shard-*"))) == (0 if writers == 1 else writers)


def test_a_lost_shard_shows_as_nan_in_the_index_and_as_damage_to_a_reader(tmp_path: Path) -> None:
    path = save(claim(tmp_path), 7, writers=3)
    (path / shard_name(1, 3)).unlink()
    with h5py.File(path / STATE) as file:
        assert np.isnan(file["parameters"][()]).any()
    with pytest.raises(DamagedCheckpoint, match=r"shard-0001-of-0003.h5 is missing"):
        look(path)


def test_rows_are_written_once_and_in_equal_parts(tmp_path: Path) -> None:
    manifest = look(save(claim(tmp_path), 7, writers=3)).manifest
    nbytes = dict.fromkeys(manifest.files, 0)
    for name, entry in manifest.arrays.items():
        assert sum(piece.stop - piece.start for piece in entry.pieces) == layout.rows(entry)
        for piece in entry.pieces:
            nbytes[piece.file] += (piece.stop - piece.start) * arrays(7)[name][:1].nbytes if entry.shape else 8
    del nbytes[STATE]
    assert max(nbytes.values()) - min(nbytes.values()) <= 24 + 8  # a row, and the scalar


def test_only_the_newest_are_kept(tmp_path: Path, writers: int) -> None:
    owner = claim(tmp_path)
    for step in (1, 2, 3, 4):
        save(owner, step, keep=2, writers=writers)
    assert steps(tmp_path) == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        fence.LOCK,
        fence.OWNER,
        "step-00000003",
        "step-00000004",
    ]


def test_a_committed_step_is_never_written_over(tmp_path: Path) -> None:
    owner = claim(tmp_path)
    save(owner, 5)
    with pytest.raises(FileExistsError, match="never written over"):
        save(owner, 5)
    assert steps(tmp_path) == [5]


def test_the_files_are_plain_enough_for_old_readers(tmp_path: Path, writers: int) -> None:
    for path in save(claim(tmp_path), 1, writers=writers).glob("*.h5"):
        raw = path.read_bytes()
        assert raw[:8] == b"\x89HDF\r\n\x1a\n"
        assert raw[8] <= 2  # superblock; HDF5 1.8 and later read version 2


def test_arrays_start_on_stripes(tmp_path: Path) -> None:
    path = save(claim(tmp_path), 1, state={"large": np.ones(1 << 20), "larger": np.ones(1 << 21)})
    with h5py.File(path / STATE) as file:
        assert [file[name].id.get_offset() % hdf5.ALIGNMENT for name in ("large", "larger")] == [0, 0]


def written(path: Path) -> dict[str, np.ndarray]:
    """A file of many small arrays and large ones is written; what was put in."""
    state = {f"small{number}": np.arange(number + 1.0) for number in range(200)}
    state["large"] = np.random.default_rng(0).normal(size=(7 * hdf5.BLOCK + 12_345) // 8)
    hdf5.write(path, hdf5.lay_out(state), state)
    return state


def test_the_disk_gets_every_block_and_is_waited_for_within_a_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[tuple[int, int]] = []
    waited: list[tuple[int, int]] = []
    dropped: list[tuple[int, int]] = []
    sync = hdf5._sync_file_range

    def drop(descriptor: int, offset: int, nbytes: int, advice: int) -> None:
        assert advice == os.POSIX_FADV_DONTNEED
        dropped.append((offset, nbytes))
        raise OSError(errno.ENOSYS, "no such advice here")

    def note(descriptor: int, offset: int, nbytes: int, how: int) -> int:
        (begun if how == hdf5.SYNC_FILE_RANGE_WRITE else waited).append((offset, nbytes))
        assert len(begun) - len(waited) <= hdf5.WINDOW + 1
        return sync(descriptor, offset, nbytes, how)

    monkeypatch.setattr(hdf5, "_sync_file_range", note)
    monkeypatch.setattr(os, "posix_fadvise", drop)
    state = written(tmp_path / "file.h5")
    assert len(begun) >= 7
    assert all(nbytes >= hdf5.BLOCK for _, nbytes in begun)  # small arrays are not waited for one by one
    assert dropped == waited == begun[: -hdf5.WINDOW]
    with h5py.File(tmp_path / "file.h5") as file:
        for name, values in state.items():
            np.testing.assert_array_equal(file[name][:], values)


def failing(code: int, in_what: int) -> Callable[..., int]:
    sync = hdf5._sync_file_range

    def fail(descriptor: int, offset: int, nbytes: int, how: int) -> int:
        if not how & in_what:
            return sync(descriptor, offset, nbytes, how)
        ctypes.set_errno(code)
        return -1

    return fail


@pytest.mark.parametrize("in_what", [hdf5.SYNC_FILE_RANGE_WRITE, hdf5.SYNC_FILE_RANGE_WAIT_AFTER])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_disk_that_fails_meanwhile_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, in_what: int
) -> None:
    monkeypatch.setattr(hdf5, "_sync_file_range", failing(code, in_what))
    with pytest.raises(OSError, match="could not be written") as caught:
        written(tmp_path / "file.h5")
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "file.h5"))


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_a_system_without_sync_file_range_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(hdf5, "_sync_file_range", failing(code, hdf5.SYNC_FILE_RANGE_WRITE))
    state = written(tmp_path / "file.h5")
    with h5py.File(tmp_path / "file.h5") as file:
        np.testing.assert_array_equal(file["large"][:], state["large"])


def test_what_is_compressed_goes_through_the_window_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    monkeypatch.setattr(os, "posix_fadvise", lambda descriptor, offset, nbytes, advice: dropped.append(nbytes))
    state = {"noise": np.random.default_rng(0).integers(0, 256, 9 * hdf5.BLOCK, dtype=np.uint8)}
    hdf5.write(tmp_path / "file.h5", hdf5.lay_out(state, "gzip"), state)
    assert sum(dropped) >= (9 - 1 - 2 * hdf5.WINDOW // 2) * hdf5.BLOCK // 2 > 0
    with h5py.File(tmp_path / "file.h5") as file:
        np.testing.assert_array_equal(file["noise"][:], state["noise"])


def test_a_part_that_never_comes_is_not_waited_for_once_the_save_is_given_up(tmp_path: Path) -> None:
    owner, state = claim(tmp_path), arrays(1)
    order = Order(owner, writer.begin(owner, 1), 1, FACTS, shapes_of(state), writers_of(state, range(2), 2), 3)
    root = Saving(order, 0)
    root.start(own_rows(state, order.share(0)))
    root.wait_written()
    root.abandon()
    with pytest.raises(RuntimeError, match="nothing was committed"):
        root.outcome()
    assert sorted(path.name for path in tmp_path.iterdir()) == [fence.LOCK, fence.OWNER]


def test_parts_that_are_not_the_whole_are_not_committed(tmp_path: Path) -> None:
    state = arrays(1)
    plan = writers_of(state, range(3), 3)
    parts = [
        part.write_part(tmp_path, each.file, own_rows(state, each.share), each.share) for each in plan if each.rank != 1
    ]
    with pytest.raises(ValueError, match="of parameters, which has 5000"):
        part.assemble(1, "token", FACTS, shapes_of(state), parts)


# --- killed at every point --------------------------------------------------------------------------------


def die_at(call: int) -> None:
    """Make this process vanish, as by kill -9, just before its `call`-th change of the file system."""
    left = [call]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call_or_die(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os._exit(KILLED)
            return function(*arguments, **options)

        return call_or_die

    for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "open", "pwrite", "ftruncate"):
        setattr(os, name, deadly(getattr(os, name)))


def save_and_die(directory: Path, step: int, call: int, writers: int) -> bool:
    """In a process of its own, start a run and save; returns whether it died before its end."""
    child = os.fork()
    if child == 0:
        try:
            die_at(call)
            save(claim(directory), step, keep=2, writers=writers)
            os._exit(0)
        finally:
            os._exit(1)  # an exception
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


@pytest.mark.limit(300)
def test_a_writer_killed_anywhere_leaves_only_whole_checkpoints(tmp_path: Path, writers: int) -> None:
    start = tmp_path / "start"
    owner = claim(start)
    for step in (1, 2):
        save(owner, step, keep=2, writers=writers)
    found = []
    for call in range(1, 300):
        directory = tmp_path / str(call)
        shutil.copytree(start, directory)
        killed = save_and_die(directory, 3, call, writers)
        steps(directory)  # whatever has the name of a checkpoint is whole, before anybody cleans up

        owner = claim(directory)
        found.append(newest_step(directory))
        save(owner, 4, keep=2, writers=writers)
        assert steps(directory) == [found[-1], 4]
        assert not list(directory.glob("*.tmp-*"))
        if not killed:
            break
    assert not killed
    assert set(found) == {2, 3}
    if writers == 1:  # with several, the order of their calls is another each time
        assert found == sorted(found)  # 2 until the commit, 3 from then on
    assert found.count(2) > 10
    assert found.count(3) > 5


# --- damage -----------------------------------------------------------------------------------------------


def flip(path: Path, offset: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1
    path.write_bytes(raw)


def flip_value(path: Path) -> None:
    with h5py.File(path / STATE, locking=False) as file:
        offset = file["parameters"].id.get_offset()
    flip(path / STATE, offset + 4001)


def zero_page(path: Path) -> None:
    with open(path / STATE, "r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))


def edit_facts(path: Path) -> None:
    outer = json.loads((path / MANIFEST).read_text())
    outer["manifest"]["facts"]["list"][0] = 7
    (path / MANIFEST).write_text(json.dumps(outer))


DAMAGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "truncated": (
        lambda path: os.truncate(path / STATE, (path / STATE).stat().st_size - 1),
        "bytes, .* were written",
    ),
    "bit flipped": (flip_value, "parameters does not fit its digest"),
    "header flipped": (lambda path: flip(path / STATE, 9), "cannot be read"),
    "page zeroed": (zero_page, "does not fit its digest|cannot be read"),
    "state lost": (lambda path: (path / STATE).unlink(), "is missing"),
    "manifest lost": (lambda path: (path / MANIFEST).unlink(), "has no manifest.json"),
    "manifest cut": (lambda path: os.truncate(path / MANIFEST, 100), "manifest.json"),
    "manifest emptied": (lambda path: os.truncate(path / MANIFEST, 0), "manifest.json"),
    "facts edited": (edit_facts, "does not fit its digest"),
    "a file": (lambda path: (shutil.rmtree(path), path.touch()), "is not a directory"),
    "manifest a directory": (lambda path: ((path / MANIFEST).unlink(), (path / MANIFEST).mkdir()), "Is a directory"),
    "emptied": (lambda path: [file.unlink() for file in path.iterdir()], "has no manifest.json"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_skipped_and_kept(tmp_path: Path, damage: str) -> None:
    harm, why = DAMAGES[damage]
    save(claim(tmp_path), 1)
    path = save(claim(tmp_path), 2)
    harm(path)
    with pytest.raises(DamagedCheckpoint, match=why) as damaged:
        read(look(path))
    assert damaged.value.path == path

    owner = claim(tmp_path)
    writer.set_aside(owner, path)
    assert newest_step(tmp_path) == 1

    save(owner, 2, keep=1)  # the run comes to the same step again
    assert steps(tmp_path) == [2]
    assert len(list(tmp_path.glob("step-00000002.damaged-*"))) == 1


def test_what_reached_the_file_changed_is_found_when_it_is_read(
    tmp_path: Path, writers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite

    def write_badly(descriptor: int, raw: Any, offset: int) -> int:
        bad = bytearray(raw)
        bad[-1] ^= len(bad) > 6000  # the parameters
        return pwrite(descriptor, bad, offset)

    monkeypatch.setattr(os, "pwrite", write_badly)
    path = save(claim(tmp_path), 2, writers=writers)
    monkeypatch.undo()
    with pytest.raises(DamagedCheckpoint, match="does not fit its digest"):
        read(look(path))


def test_nothing_old_is_removed_if_the_new_one_cannot_be_written(
    tmp_path: Path, writers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = claim(tmp_path)
    save(owner, 1, keep=1)

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="could not be written, earlier checkpoints are as they were"):
        save(owner, 2, keep=1, writers=writers)
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    assert not list(tmp_path.glob("*.tmp-*"))


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_checkpoint_that_cannot_be_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save(claim(tmp_path), 1)
    bad = save(claim(tmp_path), 2)
    read_text = Path.read_text

    def fail(path: Path, **options: Any) -> str:
        if path.parent == bad:
            raise OSError(code, os.strerror(code), str(path))
        return read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", fail)
    checkpoint, damaged = newest(tmp_path)
    assert checkpoint
    assert checkpoint.step == 1
    assert os.strerror(code) in str(damaged[0])


def test_looking_for_the_newest_changes_nothing(tmp_path: Path) -> None:
    save(claim(tmp_path), 1)
    (save(claim(tmp_path), 2) / MANIFEST).unlink()
    before = sorted(tmp_path.rglob("*"))
    checkpoint, damaged = newest(tmp_path)
    assert checkpoint
    assert (checkpoint.step, len(damaged)) == (1, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_removed_while_we_look_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = claim(tmp_path)
    save(owner, 1)

    def go_on_meanwhile(path: Path) -> Any:
        if path.name == directory_name(1):
            save(owner, 2, keep=1)
        return look(path)

    monkeypatch.setattr(reader, "look", go_on_meanwhile)
    checkpoint, damaged = newest(tmp_path)
    assert checkpoint
    assert checkpoint.step == 2
    assert not damaged


@pytest.mark.parametrize("room", [0, 3000])
def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, writers: int, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    owner = claim(tmp_path)
    save(owner, 1)
    pwrite = os.pwrite

    def fill(descriptor: int, raw: Any, offset: int) -> int:
        if offset + len(raw) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, raw, offset)

    monkeypatch.setattr(os, "pwrite", fill)
    with pytest.raises(OSError, match=r"No space left.*are as they were.*\.h5"):
        save(owner, 2, writers=writers)
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    assert not list(tmp_path.glob("*.tmp-*"))
    save(owner, 2, writers=writers)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can make a small disk")
def test_a_disk_that_is_really_full_does_not_crash(tmp_path: Path, writers: int) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", str(tmp_path)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"cannot mount here: {mount.stderr.decode()}")
    try:
        owner = claim(tmp_path)
        save(owner, 1)
        with pytest.raises(OSError, match="No space left"):
            save(owner, 2, state={"large": np.ones(1_000_000)}, writers=writers)
        save(owner, 3, writers=writers)
        assert steps(tmp_path) == [1, 3]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- two runs ---------------------------------------------------------------------------------------------


def test_a_run_that_was_replaced_cannot_commit(tmp_path: Path) -> None:
    old = claim(tmp_path)
    save(old, 1)
    new = claim(tmp_path)
    with pytest.raises(FencedOut, match="taken over by another run"):
        save(old, 2)
    assert not list(tmp_path.glob("*.tmp-*"))
    save(new, 2)
    assert steps(tmp_path) == [1, 2]
    assert json.loads((tmp_path / fence.OWNER).read_text())["token"] == new.token


@pytest.mark.parametrize(("module", "function"), [(hdf5, "write_blocks"), (writer, "fsync")], ids=["early", "late"])
def test_a_run_replaced_while_it_writes_cannot_commit(
    tmp_path: Path, writers: int, monkeypatch: pytest.MonkeyPatch, module: Any, function: str
) -> None:
    old = claim(tmp_path)
    do = getattr(module, function)
    replaced = []

    def be_replaced(*arguments: Any, **options: Any) -> None:
        do(*arguments, **options)
        if not replaced:
            replaced.append(claim(tmp_path))

    monkeypatch.setattr(module, function, be_replaced)
    with pytest.raises(FencedOut, match="taken over by another run"):
        save(old, 1, writers=writers)
    monkeypatch.undo()
    assert committed(tmp_path) == []
    save(claim(tmp_path), 1)
    assert steps(tmp_path) == [1]


def test_a_run_that_was_replaced_cannot_prune(tmp_path: Path) -> None:
    old = claim(tmp_path)
    save(old, 1)
    save(claim(tmp_path), 2)
    with pytest.raises(FencedOut):
        writer.prune(old, keep=1)
    assert steps(tmp_path) == [1, 2]


def test_leftovers_of_others_are_removed_but_not_ones_own(tmp_path: Path) -> None:
    owner = claim(tmp_path)
    dead, own = tmp_path / "step-00000009.tmp-dead", tmp_path / f"step-00000009.tmp-{owner.token}"
    for path in (dead, own):
        path.mkdir()
        (path / STATE).write_bytes(b"half")
    writer.remove_leftovers(owner)
    assert not dead.exists()
    assert own.exists()


def test_a_lock_that_is_never_given_back_is_reported(tmp_path: Path) -> None:
    claim(tmp_path)
    with (
        fence.lock(tmp_path),
        pytest.raises(TimeoutError, match="another process has held this lock"),
        fence.lock(tmp_path, patience=0.05),
    ):
        pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with fence.lock(tmp_path):
            os._exit(KILLED)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == KILLED  # so it had the lock
    with fence.lock(tmp_path, patience=0.05):
        pass


# --- what has not changed is not written again ---------------------------------------------------------------


def chain(tmp_path: Path, states: list[dict[str, np.ndarray]], keep: int = 99) -> list[Path]:
    """Save states one after the other, each knowing the one before; returns the checkpoints."""
    owner, previous, paths = claim(tmp_path), None, []
    for step, state in enumerate(states, 1):
        order = Order(
            owner, writer.begin(owner, step), step, FACTS, shapes_of(state), writers_of(state, range(1), 1), keep
        )
        rank = Saving(order, 0, previous)
        rank.start(own_rows(state, order.share(0)))
        paths.append(rank.outcome()[0])
        assert rank.part
        previous = Previous(paths[-1], rank.part.pieces, rank.part.files, rank.part.heads)
    return paths


def frozen_but(step: int) -> dict[str, np.ndarray]:
    """A state of which few rows change from step to step."""
    state = arrays(1)
    state["parameters"][100 * step + 10 : 100 * step + 40] = step  # in the middle of a piece of 200 bytes
    state["scalar"] = np.array(step)
    return state


def heads_of(state: dict[str, np.ndarray]) -> dict[str, tuple[str, ...]]:
    """Of arrays that are one piece each."""
    return {name: (head(values),) for name, values in state.items()}


@pytest.mark.parametrize("head", [8, 64 << 10])
def test_unchanged_pieces_are_links_and_all_comes_back(
    tmp_path: Path, head: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PIECE", 200)
    monkeypatch.setattr(unchanged, "HEAD", head)
    states = [frozen_but(step) for step in range(1, 6)]
    paths = chain(tmp_path, states)
    for path, state in zip(paths, states, strict=True):
        assert same(read(look(path)), state)
        with h5py.File(path / STATE) as file:
            assert same({name: file[name][()] for name in state}, state)
    kept = paths[-1] / "step-00000001.state.h5"
    assert kept.stat().st_nlink == 5
    assert (paths[-1] / shard_name(0, 1)).stat().st_size < kept.stat().st_size / 2


def test_what_a_link_holds_outlives_the_checkpoint_it_was_written_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PIECE", 200)
    paths = chain(tmp_path, [frozen_but(step) for step in range(1, 6)], keep=1)
    assert committed(tmp_path) == paths[-1:]
    assert same(read(look(paths[-1])), frozen_but(5))


def test_what_begins_with_a_change_is_not_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_before = []

    def note(values: np.ndarray) -> str:
        read_before.append(values.nbytes)
        return layout.digest(values)

    monkeypatch.setattr(part, "digest", note)
    chain(tmp_path, [{"x": np.full(5000, float(step)), "y": np.zeros(5)} for step in range(3)])
    assert read_before == [40, 40]


def test_where_most_has_changed_all_is_written(tmp_path: Path) -> None:
    paths = chain(tmp_path, [arrays(1), arrays(2)])
    assert sorted(path.name for path in paths[-1].iterdir()) == [MANIFEST, STATE]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EMLINK, errno.EXDEV])
def test_without_hard_links_all_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    paths = chain(tmp_path, [frozen_but(1), frozen_but(1)])
    assert sorted(path.name for path in paths[-1].iterdir()) == [MANIFEST, STATE]
    assert same(read(look(paths[-1])), frozen_but(1))


def test_a_file_that_was_cut_short_is_not_kept(tmp_path: Path) -> None:
    owner = claim(tmp_path)
    first = look(save(owner, 1)).manifest
    path = tmp_path / directory_name(1)
    os.truncate(path / STATE, first.files[STATE] - 1)
    order = Order(owner, writer.begin(owner, 2), 2, FACTS, shapes_of(arrays(1)), writers_of(arrays(1), range(1), 1), 3)
    pieces = {name: entry.pieces for name, entry in first.arrays.items()}
    rank = Saving(order, 0, Previous(path, pieces, first.files, heads_of(arrays(1))))
    rank.start(arrays(1))
    assert same(read(look(rank.outcome()[0])), arrays(1))
    assert sorted(file.name for file in order.draft.with_name(directory_name(2)).iterdir()) == [MANIFEST, STATE]


def test_compressed_files_are_not_padded(tmp_path: Path) -> None:
    state = {"zeros": np.zeros(1 << 22)}
    path = save(claim(tmp_path), 1, state=state, compression="gzip")
    assert (path / STATE).stat().st_size < state["zeros"].nbytes / 50


def test_what_comes_earlier_than_others_is_not_saved(tmp_path: Path) -> None:
    owner = claim(tmp_path)
    save(owner, 5)
    with pytest.raises(FileExistsError, match="step 5, which is later than 4"):
        save(owner, 4)
    with pytest.raises(ValueError, match="not -1"):
        writer.begin(owner, -1)
    assert steps(tmp_path) == [5]


def test_a_run_whose_draft_is_taken_away_ends(tmp_path: Path) -> None:
    owner, state = claim(tmp_path), arrays(1)
    order = Order(owner, writer.begin(owner, 1), 1, FACTS, shapes_of(state), writers_of(state, range(2), 2), 3)
    root = Saving(order, 0)
    root.start(own_rows(state, order.share(0)))
    root.wait_written()
    claim(tmp_path)  # the other part never comes
    with pytest.raises(FencedOut):
        root.outcome()


def test_a_checkpoint_that_is_gone_cannot_be_linked_to(tmp_path: Path) -> None:
    owner = claim(tmp_path)
    first = save(owner, 1)
    pieces = {name: entry.pieces for name, entry in look(first).manifest.arrays.items()}
    size = (first / STATE).stat().st_size
    shutil.rmtree(first)
    order = Order(owner, writer.begin(owner, 2), 2, FACTS, shapes_of(arrays(1)), writers_of(arrays(1), range(1), 1), 3)
    rank = Saving(order, 0, Previous(first, pieces, {STATE: size}, heads_of(arrays(1))))
    rank.start(arrays(1))
    assert same(read(look(rank.outcome()[0])), arrays(1))
