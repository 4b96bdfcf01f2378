"""Checkpoints under killed writers, damage, and two runs that want the same directory."""

from __future__ import annotations

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

from hpcdist.checkpoint import DamagedCheckpoint, FencedOut, Store, committed, fence, newest, read, reader, writer
from hpcdist.checkpoint.layout import MANIFEST, STATE, directory_name

KILLED = 9


def arrays(step: int) -> dict[str, np.ndarray]:
    return {
        "parameters": np.random.default_rng(step).normal(size=5000).astype(np.float32),
        "optimizer/velocity": np.arange(7.0) * step,
        "empty": np.empty((0, 3), np.int64),
    }


def save(store: Store, step: int) -> Path:
    return store.save(step, arrays(step), {"step": step, "list": [1, 2.5, "three"]})


def steps(directory: Path) -> list[int]:
    """Steps of all committed checkpoints, each of which is read and compared with what was saved."""
    found = [read(path) for path in committed(directory)]
    for checkpoint in found:
        expected = arrays(checkpoint.step)
        assert checkpoint.path.name == directory_name(checkpoint.step)
        assert checkpoint.facts == {"step": checkpoint.step, "list": [1, 2.5, "three"]}
        assert {name: values.tobytes() for name, values in checkpoint.arrays.items()} == {
            name: values.tobytes() for name, values in expected.items()
        }
        assert all(checkpoint.arrays[name].shape == expected[name].shape for name in expected)
    return [checkpoint.step for checkpoint in found]


def newest_step(store: Store) -> int:
    checkpoint, damaged = store.newest()
    assert checkpoint
    assert not damaged
    return checkpoint.step


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    store = Store(tmp_path / "deep" / "er")
    assert store.newest() == (None, [])
    save(store, 20)
    save(store, 100)
    assert steps(store.directory) == [20, 100]
    assert newest_step(Store(store.directory)) == 100


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, keep=2)
    for step in (1, 2, 3, 4):
        save(store, step)
    assert steps(tmp_path) == [3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        fence.LOCK,
        fence.OWNER,
        "step-00000003",
        "step-00000004",
    ]


def test_at_least_one_must_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Store(tmp_path, keep=0)


def test_a_committed_step_is_never_written_over(tmp_path: Path) -> None:
    store = Store(tmp_path)
    save(store, 5)
    with pytest.raises(FileExistsError, match="never written over"):
        save(store, 5)
    assert steps(tmp_path) == [5]


def test_the_file_is_plain_enough_for_old_readers(tmp_path: Path) -> None:
    raw = (save(Store(tmp_path), 1) / STATE).read_bytes()
    assert raw[:8] == b"\x89HDF\r\n\x1a\n"
    assert raw[8] <= 2  # superblock; HDF5 1.8 and later read version 2


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

    for name in ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir"):
        setattr(os, name, deadly(getattr(os, name)))
    h5py.Group.create_dataset = deadly(h5py.Group.create_dataset)


def save_and_die(directory: Path, step: int, call: int) -> bool:
    """In a process of its own, start a run and save; returns whether it died before its end."""
    child = os.fork()
    if child == 0:
        try:
            die_at(call)
            save(Store(directory, keep=2), step)
            os._exit(0)
        finally:
            os._exit(1)  # an exception
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def test_a_writer_killed_anywhere_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    start = tmp_path / "start"
    for step in (1, 2):
        save(Store(start, keep=2), step)
    found = []
    for call in range(1, 100):
        directory = tmp_path / str(call)
        shutil.copytree(start, directory)
        killed = save_and_die(directory, 3, call)
        steps(directory)  # whatever has the name of a checkpoint is whole, before anybody cleans up

        store = Store(directory, keep=2)
        found.append(newest_step(store))
        save(store, 4)
        assert steps(directory) == [found[-1], 4]
        assert not list(directory.glob("*.tmp-*"))
        if not killed:
            break
    assert not killed
    assert found == sorted(found)  # 2 until the commit, 3 from then on
    assert found.count(2) > 5
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
    save(Store(tmp_path), 1)
    path = save(Store(tmp_path), 2)
    harm(path)
    with pytest.raises(DamagedCheckpoint, match=why):
        read(path)

    store = Store(tmp_path, keep=1)
    checkpoint, damaged = store.newest()
    assert checkpoint
    assert checkpoint.step == 1
    assert [error.path for error in damaged] == [path]

    save(store, 2)  # the run comes to the same step again
    assert steps(tmp_path) == [2]
    assert len(list(tmp_path.glob("step-00000002.damaged-*"))) == 1


def test_nothing_old_is_removed_if_the_new_one_does_not_read_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path, keep=1)
    save(store, 1)
    whole = writer.write

    def write_badly(*arguments: Any) -> Path:
        path = whole(*arguments)
        flip_value(path)
        return path

    monkeypatch.setattr("hpcdist.checkpoint.store.write", write_badly)
    with pytest.raises(DamagedCheckpoint):
        save(store, 2)
    assert newest_after_damage(tmp_path) == 1


def newest_after_damage(directory: Path) -> int:
    checkpoint, damaged = Store(directory).newest()
    assert checkpoint
    assert len(damaged) == 1
    return checkpoint.step


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO])
def test_a_checkpoint_that_cannot_be_read_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    save(Store(tmp_path), 1)
    bad = save(Store(tmp_path), 2)
    read_text = Path.read_text

    def fail(path: Path, **options: Any) -> str:
        if path.parent == bad:
            raise OSError(code, os.strerror(code), str(path))
        return read_text(path, **options)

    monkeypatch.setattr(Path, "read_text", fail)
    checkpoint, damaged = Store(tmp_path).newest()
    assert checkpoint
    assert checkpoint.step == 1
    assert os.strerror(code) in str(damaged[0])


def test_looking_for_the_newest_changes_nothing(tmp_path: Path) -> None:
    save(Store(tmp_path), 1)
    (save(Store(tmp_path), 2) / MANIFEST).unlink()
    before = sorted(tmp_path.rglob("*"))
    checkpoint, damaged = newest(tmp_path)
    assert checkpoint
    assert (checkpoint.step, len(damaged)) == (1, 1)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_removed_while_we_look_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path, keep=1)
    save(store, 1)

    def go_on_meanwhile(path: Path) -> Any:
        if path.name == directory_name(1):
            save(store, 2)
        return read(path)

    monkeypatch.setattr(reader, "read", go_on_meanwhile)
    checkpoint, damaged = newest(tmp_path)
    assert checkpoint
    assert checkpoint.step == 2
    assert not damaged


@pytest.mark.parametrize("room", [0, 10_000])
def test_a_full_disk_is_an_error_and_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    store = Store(tmp_path)
    save(store, 1)
    write_bytes = Path.write_bytes

    def fill(path: Path, raw: bytes) -> int:
        write_bytes(path, raw[:room])
        if len(raw) > room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(raw)

    monkeypatch.setattr(Path, "write_bytes", fill)
    with pytest.raises(OSError, match=r"No space left.*are as they were.*state\.h5"):
        save(store, 2)
    monkeypatch.undo()
    assert steps(tmp_path) == [1]
    assert not list(tmp_path.glob("*.tmp-*"))
    save(store, 2)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="only root can make a small disk")
def test_a_disk_that_is_really_full_does_not_crash(tmp_path: Path) -> None:
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4M", "none", str(tmp_path)], capture_output=True)
    if mount.returncode:
        pytest.skip(f"cannot mount here: {mount.stderr.decode()}")
    try:
        store = Store(tmp_path)
        save(store, 1)
        with pytest.raises(OSError, match="No space left"):
            store.save(2, {"large": np.ones(1_000_000)}, {})
        save(store, 3)
        assert steps(tmp_path) == [1, 3]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


# --- two runs ---------------------------------------------------------------------------------------------


def test_a_run_that_was_replaced_cannot_commit(tmp_path: Path) -> None:
    old = Store(tmp_path)
    save(old, 1)
    new = Store(tmp_path)
    with pytest.raises(FencedOut, match="taken over by another run"):
        save(old, 2)
    assert not list(tmp_path.glob("*.tmp-*"))
    save(new, 2)
    assert steps(tmp_path) == [1, 2]
    assert json.loads((tmp_path / fence.OWNER).read_text())["token"] == new.fence.token


def test_a_run_replaced_while_it_writes_cannot_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = Store(tmp_path)
    flush = writer.fsync

    def be_replaced(path: Path) -> None:
        flush(path)
        if path.is_dir():  # everything is written, only the commit is left
            Store(tmp_path)

    monkeypatch.setattr(writer, "fsync", be_replaced)
    with pytest.raises((FencedOut, FileNotFoundError)):
        save(old, 1)
    monkeypatch.undo()
    assert committed(tmp_path) == []
    save(Store(tmp_path), 1)
    assert steps(tmp_path) == [1]


def test_a_run_that_was_replaced_cannot_prune(tmp_path: Path) -> None:
    old = Store(tmp_path, keep=1)
    save(old, 1)
    save(Store(tmp_path, keep=3), 2)
    with pytest.raises(FencedOut):
        writer.prune(old.fence, keep=1)
    assert steps(tmp_path) == [1, 2]


def test_leftovers_of_others_are_removed_but_not_ones_own(tmp_path: Path) -> None:
    store = Store(tmp_path)
    dead, own = tmp_path / "step-00000009.tmp-dead", tmp_path / f"step-00000009.tmp-{store.fence.token}"
    for path in (dead, own):
        path.mkdir()
        (path / STATE).write_bytes(b"half")
    writer.remove_leftovers(store.fence)
    assert not dead.exists()
    assert own.exists()


def test_a_lock_that_is_never_given_back_is_reported(tmp_path: Path) -> None:
    Store(tmp_path)
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
