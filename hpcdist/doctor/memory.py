"""Memory that a message needs: /dev/shm within a host, pages that may be locked for InfiniBand between hosts."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, Finding, listing, plural
from hpcdist.doctor.job import Job
from hpcdist.mpi import leftovers
from hpcdist.util.cgroups import available_memory
from hpcdist.util.sizes import format_bytes

SHM = Path("/dev/shm")
PER_RANK = 16 << 20  # bytes of shared memory that MPI libraries take per rank of a host, about
SOME = 20  # files: fewer are met by one job in 3000
INFINIBAND = Path("/sys/class/infiniband")


@dataclass(frozen=True)
class Room:
    """The memory of a host, in bytes; None for what is not there or not limited."""

    shm: int | None
    available: int
    devices: tuple[str, ...] = ()  # of InfiniBand and its kin
    lockable: int | None = None
    leftovers: int = 0  # files of ranks of Open MPI that were killed


def check(job: Job) -> list[Finding]:
    """One rank of each host looks."""
    answers = job.ask("look at /dev/shm and at limits", lambda: look() if job.is_head else None)
    hosts = {name: room for name, room in job.by_host(answers).items() if room}
    ranks = {name: len(ranks) for name, ranks in zip(job.names, job.nodes, strict=True)}
    return [judge_memory(hosts), judge_shm(hosts, ranks), judge_leftovers(hosts), judge_locked(hosts)]


def look() -> Room:
    """This host's memory."""
    shm = None
    if os.access(SHM, os.W_OK):
        stat = os.statvfs(SHM)
        shm = stat.f_bavail * stat.f_frsize
    devices = tuple(sorted(os.listdir(INFINIBAND))) if INFINIBAND.is_dir() else ()
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    lockable = None if soft == resource.RLIM_INFINITY else soft
    return Room(shm, available_memory(), devices, lockable, leftovers.killed())


def judge_memory(hosts: Mapping[str, Room]) -> Finding:
    """What is left for buffers."""
    name, least = min(hosts.items(), key=lambda item: item[1].available)
    where = f" on {name}, the least" if len(hosts) > 1 else ""
    return Finding(OK, "memory", f"{format_bytes(least.available)} available{where}")


def judge_shm(hosts: Mapping[str, Room], ranks: Mapping[str, int]) -> Finding:
    """Ranks of a host talk through files in /dev/shm; without room they crash with SIGBUS when they first write."""
    needed = {name: PER_RANK * ranks[name] for name in hosts}
    closed = [name for name, room in hosts.items() if room.shm is None]
    small = [f"{name}: {format_bytes(room.shm)} for {plural(ranks[name], 'rank')}"
             for name, room in hosts.items() if room.shm is not None and room.shm < needed[name]]  # fmt: skip
    if closed or small:
        closed_text = f"not writable on {listing(closed)}" if closed else ""
        return Finding(
            FAIL if closed else WARN,
            "/dev/shm",
            "; ".join(text for text in (closed_text, listing(small)) if text),
            "ranks of a host exchange messages through it; where it is full they die of a bus error (SIGBUS), where it "
            f"is missing they use slower ways. About {format_bytes(PER_RANK)} per rank are taken",
            "remove files that dead jobs left there, or make it larger: mount -o remount,size=50% /dev/shm; "
            "in a container: docker run --shm-size=8g, or --ipc=host",
        )
    name, least = min(hosts.items(), key=lambda item: item[1].shm or 0)
    return Finding(
        OK, "/dev/shm", f"{format_bytes(least.shm or 0)} free" + (f" on {name}, the least" if len(hosts) > 1 else "")
    )


def judge_leftovers(hosts: Mapping[str, Room]) -> Finding:
    """A job that draws the number of one that was killed finds its files."""
    found = [f"{name}: {room.leftovers}" for name, room in hosts.items() if room.leftovers > SOME]
    if not found:
        return Finding(OK, "killed jobs", f"at most {SOME} files of theirs in {SHM}")
    return Finding(
        WARN,
        "killed jobs",
        f"files that their ranks left in {SHM}. {listing(found)}",
        "Open MPI names such files by 16 bits: a job that draws the number of an old one dies of SIGSEGV in MPI_Init",
        "`hpcdist run` removes those that nobody has mapped; or rm /dev/shm/sm_segment.* while no job runs",
    )


def judge_locked(hosts: Mapping[str, Room]) -> Finding:
    """InfiniBand moves data from pages that are locked in memory."""
    fast = {name: room for name, room in hosts.items() if room.devices}
    if not fast:
        return Finding(SKIP, "locked memory", f"no InfiniBand: there is nothing in {INFINIBAND}")
    limits = {name: room.lockable for name, room in fast.items() if room.lockable is not None}
    small = [f"{name}: {format_bytes(limit)}" for name, limit in limits.items() if limit < fast[name].available // 2]
    if small:
        return Finding(
            WARN,
            "locked memory",
            f"limited. {listing(small)}",
            "messages over InfiniBand need locked pages: the library falls back to TCP or aborts at the limit",
            "ulimit -l unlimited on the hosts: LimitMEMLOCK=infinity for slurmd, and "
            "PropagateResourceLimitsExcept=MEMLOCK in slurm.conf, so that the login node's limit is not taken along",
        )
    devices = listing(device for room in fast.values() for device in room.devices)
    return Finding(OK, "locked memory", f"enough on {plural(len(fast), 'host')} with {devices}")
