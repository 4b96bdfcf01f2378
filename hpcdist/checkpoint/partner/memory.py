"""What one node keeps for a run: files in its memory. A directory of them is written aside and renamed when whole."""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint.layout import MANIFEST, Manifest, digest, directory_name
from hpcdist.checkpoint.reader import DamagedCheckpoint
from hpcdist.util.atomic_files import opened
from hpcdist.util.cgroups import available_memory
from hpcdist.util.sizes import format_bytes

SHARED_MEMORY = Path("/dev/shm")
KEY = TOKEN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
GENERATION = re.compile(r"step-(\d{8,})\.([A-Za-z0-9_-]+)(\.tmp)?")
COPY = ".copy"  # after the name of a share that is another rank's


def key_of(directory: Path, history: str = "") -> str:
    """The key for the run that keeps its checkpoints in `directory`, which need not exist.

    Args:
        directory: Of the checkpoints.
        history: Tells apart what was begun anew in the same directory.
    """
    place = directory.resolve()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", place.name).strip("-_") or "run"
    return f"{name}-{digest(repr((str(place), history)).encode()).removeprefix('xxh3:')}"


def generation(step: int, token: str) -> str:
    """Name of the directory with the copies that the run with this token made after `step` steps."""
    return f"{directory_name(step)}.{token}"


class NodeMemory:
    """The files of one run on one node. One rank of the node calls all methods but `reserve`."""

    def __init__(self, folder: Path, key: str) -> None:
        self.user = folder / f"hpcdist-{os.getuid()}"
        self.path = self.user / key

    def draft(self, name: str) -> Path:
        """Where a generation is written."""
        return self.path / f"{name}.tmp"

    def names(self) -> set[str]:
        """All generations, and the drafts of such, that are here."""
        self._check_owner()
        with suppress(FileNotFoundError):
            return {path.name for path in self.path.iterdir() if GENERATION.fullmatch(path.name)}
        return set()

    def begin(self, name: str, needed: int) -> None:
        """Make an empty draft, if there is room.

        Args:
            name: Of the generation.
            needed: Bytes that it will take.

        Raises:
            OSError: there is not; nothing has changed.
            FileExistsError: another node has made it, so this is no memory of the node's own.
            PermissionError: the folder is somebody else's.
        """
        self._open()
        self._check_room(needed)
        try:
            self.draft(name).mkdir(mode=0o700)
        except FileExistsError:
            raise FileExistsError(
                f"{self.draft(name)} has just been made by another node: partner copies must lie in memory that each "
                f"node has of its own, such as {SHARED_MEMORY}"
            ) from None

    def _open(self) -> None:
        """Make the run's folder."""
        if not self.user.parent.is_dir():
            raise FileNotFoundError(errno.ENOENT, "no such folder for partner copies", str(self.user.parent))
        with suppress(FileExistsError):
            self.user.mkdir(mode=0o700)
        self._check_owner()
        self.path.mkdir(mode=0o700, exist_ok=True)

    def _check_owner(self) -> None:
        """See that the user's folder is the user's: where it lies, anybody may have made one of that name."""
        with suppress(FileNotFoundError):
            found = self.user.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise PermissionError(
                    f"{self.user} is not a directory of user {os.getuid()}, but of {found.st_uid}; have it removed"
                )

    def _check_room(self, needed: int) -> None:
        disk = os.statvfs(self.path)
        limits = {"free memory": available_memory()}
        if disk.f_blocks:  # a tmpfs may be without a limit
            limits[f"free of {format_bytes(disk.f_blocks * disk.f_frsize)} in {self.path.parent.parent}"] = (
                disk.f_bavail * disk.f_frsize
            )
        for what, free in limits.items():
            if free < needed:
                raise OSError(
                    errno.ENOSPC,
                    f"partner copies need {format_bytes(needed)} on this node, beside those that are kept until they "
                    f"are whole; there are {format_bytes(free)} {what}: use more nodes, make it larger (mount -o "
                    "remount,size=...), or do without partner copies",
                    str(self.path),
                )

    def commit(self, name: str, manifest: Manifest) -> None:
        """Give the finished draft its name. Nothing is flushed: what is in memory outlives a process, not the node."""
        (self.draft(name) / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        os.rename(self.draft(name), self.path / name)

    def look(self, name: str) -> Manifest:
        """The manifest of a committed generation.

        Raises:
            DamagedCheckpoint: it cannot be read, or is of another.
        """
        path = self.path / name
        try:
            manifest = Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(path, f"{MANIFEST}: {error}") from error
        if generation(manifest.step, manifest.token) != name:
            raise DamagedCheckpoint(path, f"{MANIFEST} is that of {generation(manifest.step, manifest.token)}")
        return manifest

    def files(self, name: str) -> list[str]:
        """The shares that are here of a generation; their contents are not looked at."""
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(path.name for path in (self.path / name).iterdir() if path.name != MANIFEST)
        return []

    def remove(self, names: Iterable[str]) -> None:
        """Remove generations and drafts; what another process has removed meanwhile is no error."""
        for name in names:
            with suppress(FileNotFoundError):
                shutil.rmtree(self.path / name)

    def forget(self) -> None:
        """Remove all that is here of the run."""
        self._check_owner()
        with suppress(FileNotFoundError):
            shutil.rmtree(self.path)
        with suppress(OSError):  # other runs of the user have theirs in it
            self.user.rmdir()


def reserve(path: Path, nbytes: int) -> NDArray[np.uint8]:
    """A new file as an array. All its memory is taken now: none could be refused later but by a signal that kills.

    Raises:
        OSError: there is not as much.
    """
    with opened(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600) as descriptor:
        if not nbytes:
            return np.empty(0, np.uint8)
        try:
            os.posix_fallocate(descriptor, 0, nbytes)
            return np.frombuffer(mmap.mmap(descriptor, nbytes), np.uint8)
        except OSError as error:
            room = f"{error.strerror}; no room for {format_bytes(nbytes)} of partner copies"
            why = f"{room}, those before are as they were"
            raise OSError(error.errno or errno.EIO, why, str(path)) from error
