"""The libraries to stand beside: each in an environment of its own, or missing, with the reason."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hpcdist.bench.processes import last_words
from hpcdist.mpi.launcher import maker

OPEN_MPI, MPICH, INTEL, GLOO = "Open MPI", "MPICH", "Intel MPI", "Gloo"
FOLDERS = {OPEN_MPI: "openmpi", MPICH: "mpich", INTEL: "impi"}  # below that of the environments
MPIS = tuple(FOLDERS)
NAMES = (*MPIS, GLOO)
OLD, NEW = "old", "new"  # ours at two commits, on the MPI of this environment

ASK_MPI = """
import importlib.metadata, json, mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
versions = {name: importlib.metadata.version(name) for name in ("mpi4py", "numpy", "hpcdist", "numba")}
library = " ".join(MPI.Get_library_version().replace("\\0", "").splitlines()[0].split(",")[0].split())
print(json.dumps({"library": library, **versions}))
"""
ASK_TORCH = """
import json, torch, torch.distributed
assert torch.distributed.is_gloo_available(), "this torch has no Gloo"
print(json.dumps({"library": "torch " + torch.__version__}))
"""


class Missing(Exception):
    """A peer that is not there; says why."""


@dataclass(frozen=True)
class Peer:
    """A library, the Python of its environment, and its version in words; of a commit, the folder of its package."""

    name: str
    python: Path
    versions: str
    source: Path | None = None

    @property
    def mpi(self) -> bool:
        """Whether it is an MPI, on which ours can run, too."""
        return self.name in MPIS


def find(names: Sequence[str], folder: Path, torch: Path) -> tuple[list[Peer], list[str]]:
    """(those that are there, what is missing, in words).

    Args:
        names: Of `NAMES`.
        folder: Of the environments of the MPIs.
        torch: A Python that has torch.
    """
    there, missing = [], []
    for name in names:
        python = torch if name == GLOO else folder / FOLDERS[name] / "bin" / "python"
        try:
            there.append(Peer(name, python.absolute(), _versions(name, python)))
        except Missing as why:
            missing.append(f"{name}: {why}")
    return there, missing


def _versions(name: str, python: Path) -> str:
    """What the library and what is beside it call themselves.

    Raises: Missing if it is not there, or another one is.
    """
    if not python.exists():
        raise Missing(f"there is no {python}; {_log(python)}")
    done = subprocess.run(
        [python, "-c", ASK_TORCH if name == GLOO else ASK_MPI], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Missing(f"{python} cannot use it: {last_words(done.stderr)}")
    found = json.loads(done.stdout.splitlines()[-1])
    if name in MPIS and maker(found["library"]) != name:
        raise Missing(f"{python} loads {found['library']} instead")
    library = found.pop("library")
    return ", ".join([library, *(f"{other} {number}" for other, number in found.items())])


def _log(python: Path) -> str:
    """What was said when its environment was made."""
    environment = python.parent.parent
    log = environment.with_name(f"{environment.name}.log")
    if log.exists() and log.stat().st_size:
        return f"its installation said: {last_words(log.read_text())}"
    return "`make bench` makes it"
