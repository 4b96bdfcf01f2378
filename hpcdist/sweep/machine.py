"""The machine a sweep ran on, in the words that a reader of its results needs."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcdist._version import __version__


def library_name() -> str:
    """The MPI library and its version, in a few words."""
    return " ".join(MPI.Get_library_version().splitlines()[0].split(",")[0].split())


def describe(comm: MPI.Intracomm, topology: Sequence[int]) -> dict[str, Any]:
    """Where this ran, the same on all ranks; collective. The environment is left out: it holds secrets."""
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
    }


def cpu_model() -> str:
    """The processor's name as Linux gives it, else the architecture's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
