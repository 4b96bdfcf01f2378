"""Does MPI take device memory, and how is that known? Never by trying it here: where it does not, it crashes."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from contextlib import suppress

from mpi4py import MPI

from hpcdist.device import awareness, driver
from hpcdist.doctor import probe
from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, Finding
from hpcdist.doctor.job import Job
from hpcdist.doctor.probe import Verdict
from hpcdist.mpi.library import libraries, query

NAME = "CUDA-aware MPI"


def check(job: Job) -> list[Finding]:
    """What rank 0's library says of itself, and what a child of the first rank on a host with a GPU finds out."""
    said = job.ask_rank_0("ask the MPI library about CUDA", lambda: claims(next(iter(libraries()), ""), os.environ))
    first = job.ask("look for GPUs", driver.likely).index(True)
    verdict = job.ask("send device memory in a child process", lambda: try_it() if job.rank == first else None)[first]
    return [judge(said, verdict)]


def claims(path: str, environment: Mapping[str, str]) -> dict[str, bool]:
    """Who says whether the library at `path` takes device memory -> what they say."""
    said: dict[str, bool] = {}
    built = query(path, "MPIX_Query_cuda_support")
    if built is not None:
        said["MPIX_Query_cuda_support"] = bool(built)
    if "MPICH_GPU_SUPPORT_ENABLED" in environment:
        said["MPICH_GPU_SUPPORT_ENABLED"] = environment["MPICH_GPU_SUPPORT_ENABLED"] == "1"
    kinds = MPI.COMM_WORLD.Get_info().get("mpi_memory_alloc_kinds") or ""
    if "cuda" in kinds:  # that it is not named says nothing: Open MPI names kinds only if asked for them
        said["mpi_memory_alloc_kinds"] = True
    return said


def try_it() -> Verdict | None:
    """The cached verdict for this library, driver and CuPy, or a new one; None without CuPy."""
    if importlib.util.find_spec("cupy") is None:
        return None
    path = next(iter(libraries()), "")
    known = awareness.verdict(path, os.environ)
    if known is not None:
        return Verdict(known, "cached")
    verdict = probe.run(probe.DEVICE)
    if verdict.aware is not None:
        with suppress(OSError):  # then the next run probes again
            awareness.remember(path, os.environ, verdict.aware)
    return verdict


def judge(said: Mapping[str, bool], verdict: Verdict | None) -> Finding:
    """What was tried counts more than what was said."""
    claimed = (
        ", ".join(f"{who} says {'yes' if what else 'no'}" for who, what in said.items()) or "the library does not say"
    )
    if verdict is None:
        return Finding(SKIP, NAME, f"not tried: there is no CuPy to make device memory with; {claimed}")
    if verdict.aware is None:
        return Finding(
            WARN,
            NAME,
            f"unknown: the child that should try it {verdict.how}; {claimed}",
            "a device buffer crashes an MPI that does not take it",
            "keep buffers in host memory until it is known",
        )
    found = f"{'yes' if verdict.aware else 'no'}, by a child process that sent device memory ({verdict.how}); {claimed}"
    if verdict.aware:
        return Finding(OK, NAME, found)
    promised = any(said.values())
    return Finding(
        FAIL if promised else WARN,
        NAME,
        found,
        "a device buffer crashes this MPI" + (", though it says that it takes one" if promised else ""),
        "copy to host memory before sending; or use an MPI built for CUDA (Open MPI: --with-cuda, or a UCX with CUDA; "
        "MPICH: --with-cuda; Cray: MPICH_GPU_SUPPORT_ENABLED=1 and its GTL library)",
    )
