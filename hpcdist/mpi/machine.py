"""The machine that ranks run on, in the words that a reader of their results needs, and whether each has its GPU."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcdist._version import __version__
from hpcdist.device import Accelerator
from hpcdist.device.awareness import driver_version
from hpcdist.device.kinds import Device
from hpcdist.errors import AgreedError
from hpcdist.mpi.collective_errors import on_all
from hpcdist.mpi.world import topology_of


def library_name() -> str:
    """The MPI library and its version, in a few words."""
    return " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].split())


def describe(comm: MPI.Intracomm, topology: Sequence[int], accelerator: Accelerator | None = None) -> dict[str, Any]:
    """Where this ran, the same on all ranks; collective. The environment is left out: it holds secrets."""
    found = {"devices": devices(comm, accelerator)} if accelerator else {}
    per_node = np.bincount(topology).tolist()
    usable: dict[str, set[int]] = {}  # a launcher may have bound each rank to cores of its own
    for host, affinity in comm.allgather((MPI.Get_processor_name(), os.sched_getaffinity(0))):
        usable.setdefault(host, set()).update(affinity)
    cores = {host: len(numbers) for host, numbers in usable.items()}
    return {
        "hosts": list(cores),
        "cpu": cpu_model(),
        "cores_per_host": max(cores.values()),
        "ranks": comm.size,
        "ranks_per_node": per_node,
        "oversubscribed": max(per_node) > min(cores.values()),
        "mpi": library_name(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "mpi4py": version("mpi4py"),
            "hpcdist": __version__,
        },
        **found,
    }


def devices(comm: MPI.Intracomm, accelerator: Accelerator) -> dict[str, Any]:
    """The devices of all ranks, and how many ranks use each; the same on all ranks; collective."""
    every = comm.allgather((MPI.Get_processor_name(), accelerator.identity, accelerator.name))
    users, names = Counter(every), Counter(name for _, _, name in dict.fromkeys(every))
    return {
        "kind": accelerator.kind,
        "names": dict(names),
        "ranks_per_device": list(users.values()),
        "versions": device_versions(),
    }


def device_versions() -> dict[str, str]:
    """The kernel driver and CuPy, of those that there are."""
    found = re.search(r"\d+\.\d+(\.\d+)?", driver_version())
    versions = {"driver": found.group()} if found else {}
    cupy = sys.modules.get("cupy")  # loaded by whoever has made device memory with it
    return {**versions, "cupy": cupy.__version__} if cupy else versions


def cpu_model() -> str:
    """The processor's name as Linux gives it, else the architecture's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def sharing(comm: MPI.Intracomm, device: Device) -> list[str]:
    """Notes on ranks that share a GPU, as there are fewer than ranks. Collective.

    Raises:
        AgreedError: on all ranks, if ranks share one though there is one for each.
    """
    if device.kind != "cuda":
        return []
    from hpcdist.device.local import booking, crowded, double_booked  # here, as it is of use only with CuPy

    bookings = comm.allgather(on_all(comm, lambda: booking(device)))  # type: ignore[arg-type]  # of this kind
    nodes = topology_of(comm)
    if problem := double_booked(nodes, bookings):
        raise AgreedError(problem)
    found = crowded(nodes, bookings)
    return [found] if found else []
