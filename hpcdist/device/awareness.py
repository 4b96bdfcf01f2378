"""What is known of whether MPI takes device memory, without trying it: where it does not, it crashes.

`hpcdist doctor` tries it in a child process and keeps the verdict in a file of the user's, by the library, the driver,
and whatever of the environment tells the library how to move data. Here that file is read and written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hpcdist.util import typed_json
from hpcdist.util.atomic_files import write_text
from hpcdist.util.caches import user_cache

ENVIRONMENT = "HPCDIST_CUDA_AWARE"
VERSION = Path("/proc/driver/nvidia/version")

# What tells a library whether and how to move device memory: a verdict holds only for the same settings.
TRANSPORTS = (
    "MPICH_GPU", "MPIR_CVAR_ENABLE_GPU", "MPIR_CVAR_CH4", "I_MPI_OFFLOAD", "FI_", "UCX_", "PSM2_CUDA", "MV2_USE_CUDA",
    "OMPI_MCA_pml", "OMPI_MCA_btl", "OMPI_MCA_mtl", "OMPI_MCA_opal", "OMPI_MCA_accelerator", "OMPI_MCA_smsc",
)  # fmt: skip


@dataclass(frozen=True)
class Awareness:
    """Whether MPI takes device memory, None if that is not known, and who says so."""

    aware: bool | None
    source: str


UNKNOWN = Awareness(None, "no verdict of a probe; `hpcdist doctor` makes one")


def known(library: str, environment: Mapping[str, str]) -> Awareness:
    """What the environment says, or else the verdict of a probe.

    Args:
        library: path of the MPI library.
        environment: of this process.

    Raises: ValueError if HPCDIST_CUDA_AWARE is neither 0 nor 1.
    """
    said = environment.get(ENVIRONMENT)
    if said:
        if said not in ("0", "1"):
            raise ValueError(f"{ENVIRONMENT} must be 0 or 1, not {said!r}")
        return Awareness(said == "1", f"{ENVIRONMENT}={said}")
    found = verdict(library, environment)
    return UNKNOWN if found is None else Awareness(found, "as a probe in a process of its own has found")


def verdict(library: str, environment: Mapping[str, str]) -> bool | None:
    """What a probe has found, or None if there was none."""
    try:
        return read(cache_file(environment)).get(key(library, environment))
    except OSError:  # of a user without a home
        return None


def least(known_by: Iterable[Awareness]) -> Awareness:
    """What is known of all of them: nothing can be handed to an MPI that does not take it everywhere."""
    return min(known_by, key=lambda each: (False, None, True).index(each.aware))


def key(library: str, environment: Mapping[str, str]) -> str:
    """What a verdict holds for."""
    settings = [f"{name}={environment[name]}" for name in sorted(environment) if name.startswith(TRANSPORTS)]
    built = os.stat(library).st_mtime_ns if library else 0
    return " ".join([library, str(built), driver_version(), *settings])


def driver_version() -> str:
    """The kernel driver's version as it tells it; empty if there is none."""
    try:
        return VERSION.read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return ""


def cache_file(environment: Mapping[str, str]) -> Path:
    """Where verdicts are kept, for this user."""
    return user_cache(environment) / "cuda-aware.json"


def read(cache: Path) -> dict[str, bool]:
    """The verdicts that are known; none if the file is not there or broken."""
    try:
        verdicts = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(verdicts, dict):
        return {}
    return {key: aware for key, aware in verdicts.items() if isinstance(aware, bool)}


def remember(library: str, environment: Mapping[str, str], aware: bool) -> None:
    """Keep a verdict."""
    cache = cache_file(environment)
    write_text(cache, typed_json.text({**read(cache), key(library, environment): aware}))
