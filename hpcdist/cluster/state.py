"""What is remembered of a cluster from one command to the next: a folder per cluster with one JSON file in it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from hpcdist.cluster.namespaces import Process
from hpcdist.cluster.plan import Equipment, Network
from hpcdist.util import typed_json
from hpcdist.util.atomic_files import opened

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")


class StateError(RuntimeError):
    """There is no such cluster, or there is one already."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up: its network, and the first processes of its switch and of its hosts, by name.

    `slurm` is what its Slurm thinks that each host has, or None if it has no Slurm.
    """

    name: str
    network: Network
    switch: Process
    hosts: dict[str, Process]
    slurm: Equipment | None = None

    @property
    def folder(self) -> Path:
        """Where the files of this cluster are."""
        return folder(self.name)


def root() -> Path:
    """Where clusters are kept, made if need be: /run/hpcdist for root, else in $XDG_RUNTIME_DIR.

    Where a user has no such folder, it is one of the user's own in the folder for temporary files.
    """
    runtime = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR")
    path = Path(runtime) / "hpcdist" if runtime else Path(tempfile.gettempdir()) / f"hpcdist-{os.geteuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    if path.stat().st_uid != os.geteuid():
        raise StateError(f"{path} belongs to another user; set XDG_RUNTIME_DIR to a folder of your own")
    return path


def folder(name: str) -> Path:
    """Where the files of a cluster are, whether there is one of this name or not.

    Raises: StateError if no cluster can have that name.
    """
    if not NAME.fullmatch(name):
        raise StateError(f"{name!r} cannot be a cluster's name: up to 31 of a-z, 0-9 and -, the first no -")
    return root() / name


@contextlib.contextmanager
def lock() -> Iterator[None]:
    """One command at a time makes, changes or ends clusters; the lock goes when its holder ends, however it does."""
    with opened(root()) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def save(cluster: Cluster) -> None:
    """Write the cluster's file, all or nothing."""
    draft = cluster.folder / "cluster.json.new"
    draft.write_text(json.dumps(asdict(cluster), indent=1) + "\n")
    draft.replace(cluster.folder / "cluster.json")


def load(name: str) -> Cluster:
    """The cluster of that name.

    Raises: StateError if it is not up.
    """
    cluster = find(name)
    if cluster is None:
        others = ", ".join(names()) or "none is"
        raise StateError(f"no cluster {name!r} is up (up: {others}); start one with: hpcdist cluster up --name {name}")
    return cluster


def find(name: str) -> Cluster | None:
    """The cluster of that name, or None if it is not up; what a crash left on disk is not up."""
    path = folder(name) / "cluster.json"
    with contextlib.suppress(FileNotFoundError):
        cluster = typed_json.decode(path.read_bytes(), Cluster, str(path))
        return cluster if cluster.switch.alive() else None
    return None


def names() -> list[str]:
    """The clusters that are up."""
    return [name for name in sorted(os.listdir(root())) if NAME.fullmatch(name) and find(name)]


def forget(name: str) -> None:
    """Remove a cluster's files."""
    shutil.rmtree(folder(name), ignore_errors=True)
