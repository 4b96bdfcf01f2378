"""Namespaces that live as long as their first process, by `unshare` and `nsenter` of util-linux.

Nothing is pinned by name anywhere, so nothing can be left behind: the hosts' process namespaces are inside the
switch's, and when the switch's first process ends, the kernel ends every process of every host, and then takes their
interfaces away. Until it is told to stay, the switch's first process ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

EVERY_KIND = ("--mount", "--uts", "--ipc", "--net", "--pid")

EXITING = 0x4  # of the flags in /proc/PID/stat (PF_EXITING)

PATIENCE = 20.0  # seconds; everything here takes milliseconds on an idle machine

TOOLS = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "unshare": "util-linux",
         "setpriv": "util-linux", "mount": "mount", "hostname": "hostname"}  # fmt: skip

# First processes say their number as the machine counts, before /proc shows the namespace's own count.
SWITCH = """
set -e
read -r pid rest < /proc/self/stat
hostname "$1"
mount --bind "$2/hosts" /etc/hosts
mount -t tmpfs tmpfs "$2/tmp"
echo "$pid"
read -r stay
exec env --ignore-signal=CHLD sleep infinity < /dev/null > /dev/null
"""  # `read` fails, and ends the shell, when its writer has ended; ignored children need nobody to collect them

HOST = """
set -e
read -r pid rest < /proc/self/stat
hostname "$1"
mount -t proc proc /proc
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs tmpfs "$2/tmp"
echo "$pid"
exec env --ignore-signal=CHLD sleep infinity < /dev/null > /dev/null
"""


class NamespaceError(RuntimeError):
    """The machine does not let us make namespaces, or a command in one failed."""


@dataclass(frozen=True)
class Process:
    """A process of this machine: its number, and when it began [ticks since boot], as numbers are used again."""

    pid: int
    born: int

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process that has the number now.

        Raises: ProcessLookupError if there is none.
        """
        fields = _stat(pid)
        if fields is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid, int(fields[19]))

    def alive(self) -> bool:
        """Whether it goes on; the first process of a namespace is not alive from before the others are ended."""
        fields = self._fields()
        return fields is not None and not int(fields[6]) & EXITING

    def gone(self) -> bool:
        """Whether nothing is left of it but its exit code, which its parent may not have collected."""
        fields = self._fields()
        return fields is None or fields[0] in "ZX"

    def kill(self) -> None:
        """End it, and with it its process namespace if it is the first of one; return when all that is gone."""
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        wait_until(self.gone, f"process {self.pid} ends after SIGKILL")

    def _fields(self) -> list[str] | None:
        fields = _stat(self.pid)
        return fields if fields is not None and int(fields[19]) == self.born else None


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third on, the process's state; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that the kernel does in its own time.

    Raises: NamespaceError if it takes longer than 20 s.
    """
    give_up = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > give_up:
            raise NamespaceError(f"waited {PATIENCE:.0f} s in vain until {what}")
        time.sleep(0.01)


def check_tools() -> None:
    """Make sure that all tools are there, and in PATH, where administrators' tools often are not for other users.

    Raises: NamespaceError, naming what is missing and where it comes from.
    """
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        packages = " ".join(sorted({TOOLS[tool] for tool in missing}))
        raise NamespaceError(
            f"{', '.join(missing)} not found, which virtual hosts are made with; as root: apt-get install {packages}"
        )


def start_switch(name: str, folder: Path) -> tuple[Process, IO[str]]:
    """Make the namespaces of the switch.

    Args:
        name: its host name.
        folder: of the cluster. `hosts` in it is what all see as /etc/hosts; `tmp` is for files that launchers keep
            while a job runs, and each host sees one of its own.

    Returns:
        (its first process, a pipe): the process stays if a line is written to the pipe, and else ends with the pipe.
    """
    rootless = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return _start(["unshare", *rootless, "--fork", *EVERY_KIND, "sh", "-c", SWITCH, "sh", name, str(folder)], folder)


def start_host(switch: Process, name: str, folder: Path) -> Process:
    """Make the namespaces of a host inside those of the switch; returns its first process."""
    leave = ["sh", "-c", '"$@" &', "sh"]  # what waits for the host is to be the switch's, not ours
    unshare = ["unshare", "--fork", *EVERY_KIND, "sh", "-c", HOST, "sh", name, str(folder)]
    first, pipe = _start([*enter(switch, *EVERY_KIND), *leave, *unshare], folder)
    pipe.close()
    return first


def _start(command: list[str], folder: Path) -> tuple[Process, IO[str]]:
    """Start a first process in a session of its own and read its number, all it prints."""
    log = folder / "log"
    with log.open("w") as messages:
        started = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=messages,
            start_new_session=True,
            text=True,
            bufsize=1,
        )
    assert started.stdin
    assert started.stdout
    with started.stdout:
        number = started.stdout.readline()
    if not number:
        started.stdin.close()
        started.wait(PATIENCE)
        raise NamespaceError(_refused(log.read_text().strip()))
    return Process.of(int(number)), started.stdin


def _refused(message: str) -> str:
    """Why there are no namespaces, and what to do."""
    if os.geteuid() == 0:
        return (
            f"the kernel refuses namespaces to root here: {message}. In a container, start it with --privileged, or "
            "with --cap-add SYS_ADMIN --cap-add NET_ADMIN and no seccomp or AppArmor profile"
        )
    return (
        f"the kernel refuses namespaces to users here: {message}. Run as root, which virtual hosts need for interfaces "
        "and mounts of their own, or let users have user namespaces: sysctl user.max_user_namespaces, "
        "kernel.unprivileged_userns_clone=1 (Debian) or kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu)"
    )


def enter(first: Process, *namespaces: str) -> list[str]:
    """The start of a command line that runs the rest in namespaces of `first`, given as nsenter's options."""
    user = [] if os.geteuid() == 0 else ["--user"]
    return ["nsenter", "--target", str(first.pid), "--preserve-credentials", *user, *namespaces, "--"]


def call(
    first: Process,
    command: Sequence[str],
    kinds: Sequence[str] = ("--net",),
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a command in namespaces of `first`, by default in its network only, and return what it prints.

    Raises: NamespaceError if it fails, with what it said, or takes longer than 20 s.
    """
    argv = [*enter(first, *kinds), *command]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE, check=False, env=environment)
    except subprocess.TimeoutExpired:
        raise NamespaceError(f"`{' '.join(command)}` has not ended after {PATIENCE:.0f} s") from None
    if done.returncode:
        raise NamespaceError(f"`{' '.join(command)}` failed with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def inhabitants(first: Process, kind: str) -> list[Process]:
    """All other processes in the same namespace as `first`; `kind` is "pid" or "net"."""
    home = os.readlink(f"/proc/{first.pid}/ns/{kind}")
    found = []
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if entry.isdigit() and int(entry) != first.pid and os.readlink(f"/proc/{entry}/ns/{kind}") == home:
                found.append(Process.of(int(entry)))
    return found
