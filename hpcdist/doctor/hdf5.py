"""HDF5: which, whether it is parallel, whether it locks files, and whether it brings an MPI of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hpcdist.doctor.finding import FAIL, OK, WARN, Finding, listing
from hpcdist.doctor.job import Job
from hpcdist.mpi.collective_errors import naming
from hpcdist.mpi.library import libraries

LOCKING = "HDF5_USE_FILE_LOCKING"
MEANT = ("TRUE", "1", "FALSE", "0", "BEST_EFFORT")


def check(job: Job) -> list[Finding]:
    """What h5py says on every rank."""
    answers = job.ask("import h5py", _look)
    return [judge_version(answers), judge_locking([answer["locking"] for answer in answers])]


def _look() -> dict[str, Any]:
    import h5py  # here, as it loads libraries, which is looked at

    return {
        "version": f"HDF5 {h5py.version.hdf5_version}, h5py {h5py.__version__}",
        "parallel": bool(h5py.get_config().mpi),
        "locking": os.environ.get(LOCKING),
        "libraries": libraries(),
    }


def judge_version(answers: Sequence[dict[str, Any]]) -> Finding:
    """One HDF5 on all ranks, on the MPI that the ranks use."""
    versions = list(dict.fromkeys((answer["version"], answer["parallel"]) for answer in answers))
    two = [rank for rank, answer in enumerate(answers) if len(answer["libraries"]) > 1]
    if two:
        return Finding(
            FAIL,
            "HDF5",
            f"{naming(two)}: with h5py there is more than one MPI library: {listing(answers[two[0]]['libraries'])}",
            "h5py was built against another MPI than mpi4py loads: its parallel files crash or hang",
            "build h5py with the MPI in use (HDF5_MPI=ON CC=mpicc pip install --no-binary=h5py h5py), and import "
            "mpi4py.MPI before h5py",
        )
    if len(versions) > 1:
        texts = [f"{text}, {'parallel' if parallel else 'serial'}" for text, parallel in versions]
        return Finding(
            FAIL,
            "HDF5",
            f"ranks have different ones: {listing(texts)}",
            "files of the newer may not open with the older, and some ranks cannot take part in parallel writes",
            "start all ranks from one environment",
        )
    text, parallel = versions[0]
    kind = "parallel: --checkpoint-layout collective works" if parallel else "serial: each file has one writer"
    return Finding(OK, "HDF5", f"{text}, {kind}")


def judge_locking(values: Sequence[str | None]) -> Finding:
    """The variable that HDF5 reads when it opens a file."""
    different = set(values)
    if len(different) > 1 or not different <= {None, *MEANT}:
        return Finding(
            WARN,
            "HDF5 locking",
            f"{LOCKING} is " + listing("not set" if value is None else repr(value) for value in values),
            f"HDF5 reads only {', '.join(MEANT)}, and ranks that lock and ranks that do not are not kept apart",
            f"set it alike on all ranks, or on none: export {LOCKING}=FALSE",
        )
    value = values[0]
    text = "not set: files are locked where the file system can" if value is None else f"{value} on all ranks"
    return Finding(OK, "HDF5 locking", f"{LOCKING} is {text}")
