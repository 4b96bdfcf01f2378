"""Which GPU a rank takes: the one with the rank's number on its node, chosen before MPI starts, looked at afterwards.

Some MPI libraries allocate memory on the current GPU as they start; chosen later, all ranks of a node have some on its
first one. And a launcher's variables are known before the ranks are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcdist.device.cuda import CudaAccelerator, accelerator, identity
from hpcdist.kernels.device import cupy_with_gpu

VISIBLE = "CUDA_VISIBLE_DEVICES"
CHOSEN = "HPCDIST_GPU"  # the number of this rank's device among those it may use, for scripts that have chosen already

# Where launchers say which rank of its node this is. The innermost comes first: an mpirun is itself a step of Slurm's.
LOCAL_RANK = (
    "OMPI_COMM_WORLD_LOCAL_RANK",  # Open MPI
    "MPI_LOCALRANKID",  # MPICH, Intel MPI
    "MVP_COMM_WORLD_LOCAL_RANK",  # MVAPICH
    "MV2_COMM_WORLD_LOCAL_RANK",  # MVAPICH2
    "PALS_LOCAL_RANKID",  # HPE's PALS
    "PMI_LOCAL_RANK",  # Cray PMI
    "FLUX_TASK_LOCAL_ID",
    "SLURM_LOCALID",
)


def choose(environment: MutableMapping[str, str] = os.environ) -> CudaAccelerator:
    """This rank's GPU, which is CuPy's current one in this thread from now on.

    Of the devices that the rank may use it is the one with its number on the node; where there are fewer, ranks take
    them in turn. A rank without a launcher takes the first. HPCDIST_GPU names another.

    Raises: RuntimeError if there is no CuPy or no GPU, or CUDA_VISIBLE_DEVICES or HPCDIST_GPU name one that is not
        there.
    """
    rank = local_rank(environment)
    keep_own_instance(environment, rank)
    cupy = _cupy(environment)
    count = cupy.cuda.runtime.getDeviceCount()
    if problem := missing(environment, count):
        raise RuntimeError(problem)
    number = chosen(environment, rank, count)
    cupy.cuda.Device(number).use()
    return accelerator(number)


def local_rank(environment: Mapping[str, str]) -> int:
    """The number of this rank on its node, as the launcher says; 0 if there was no launcher.

    Raises: RuntimeError if what it says is no number.
    """
    variable = next((name for name in LOCAL_RANK if name in environment), None)
    if variable is None:
        return 0
    if not environment[variable].isdecimal():
        raise RuntimeError(f"{variable}={environment[variable]!r} is no number, by which this rank could take a GPU")
    return int(environment[variable])


def chosen(environment: Mapping[str, str], rank: int, count: int) -> int:
    """Which of `count` devices the rank of this number on its node takes.

    Raises: RuntimeError if HPCDIST_GPU names none of them.
    """
    text = environment.get(CHOSEN, str(rank % count))
    if not text.isdecimal() or int(text) >= count:
        raise RuntimeError(f"{CHOSEN}={text!r} names none of the {count} GPUs that this rank may use, from 0 on")
    return int(text)


def named(environment: Mapping[str, str]) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names, up to what ends the list; None if it is not set."""
    if VISIBLE not in environment:
        return None
    names = [name.strip() for name in environment[VISIBLE].split(",")]
    end = next((place for place, name in enumerate(names) if name in ("", "-1", "NoDevFiles")), len(names))
    return names[:end]


def keep_own_instance(environment: MutableMapping[str, str], rank: int) -> None:
    """Leave one instance of MIG visible, this rank's: of several that are named CUDA takes the first alone."""
    names = named(environment) or []
    if len(names) > 1 and all(name.startswith("MIG-") for name in names):
        environment[VISIBLE] = names[rank % len(names)]


def missing(environment: Mapping[str, str], count: int) -> str | None:
    """What is wrong if CUDA finds fewer devices than are named: it stops at the first that is not there."""
    names = named(environment)
    if names is None or count >= len(names):
        return None
    return (
        f"{VISIBLE}={environment[VISIBLE]} names {len(names)} GPUs, of which CUDA finds {count}: {names[count]!r} is "
        "not there, or named twice; `nvidia-smi -L` shows which there are"
    )


def _cupy(environment: Mapping[str, str]) -> Any:
    try:
        return cupy_with_gpu()
    except RuntimeError as error:
        if named(environment) != []:
            raise
        raise RuntimeError(
            f"{VISIBLE} is {environment[VISIBLE]!r}, which hides all GPUs; unset it, or ask for GPUs (--gpus-per-node)"
        ) from error


# --- after MPI has started ---


@dataclass(frozen=True)
class Booking:
    """What a rank tells the others: the device that it took, and all that it may use, by their identities."""

    taken: str
    visible: tuple[str, ...]


def booking(device: CudaAccelerator) -> Booking:
    """This rank's."""
    cupy = cupy_with_gpu()
    count = cupy.cuda.runtime.getDeviceCount()
    return Booking(device.identity, tuple(identity(cupy, number) for number in range(count)))


def double_booked(node: Sequence[int], bookings: Sequence[Booking]) -> str | None:
    """Which ranks share a GPU though their node has one for each, in words, or None; the same on all ranks.

    Args:
        node: the node of every rank.
        bookings: what every rank has told.
    """
    texts = [text for ranks, gpus, text in _shared(node, bookings) if gpus >= ranks]
    if not texts:
        return None
    return (
        f"{'; '.join(texts)}. They would take turns on it. Start the ranks with a launcher that numbers those of a "
        f"node, as srun does with --gpus-per-node=N --ntasks-per-node=N --gpu-bind=none; {VISIBLE} must name all GPUs "
        "of the node, or another one for each rank"
    )


def crowded(node: Sequence[int], bookings: Sequence[Booking]) -> str | None:
    """Which ranks share a GPU since they see too few, in words, or None; not wrong, but slow. Arguments as above."""
    return "; ".join(text for ranks, gpus, text in _shared(node, bookings) if gpus < ranks) or None


def _shared(node: Sequence[int], bookings: Sequence[Booking]) -> Iterator[tuple[int, int, str]]:
    """(ranks of the node, GPUs that they see together, in words) of each GPU that several ranks have taken."""
    for place in sorted(set(node)):
        ranks = [rank for rank in range(len(node)) if node[rank] == place]
        gpus = {gpu for rank in ranks for gpu in bookings[rank].visible}
        for gpu in sorted({bookings[rank].taken for rank in ranks}):
            users = [rank for rank in ranks if bookings[rank].taken == gpu]
            if len(users) > 1:
                who = ", ".join(map(str, users))
                yield len(ranks), len(gpus), f"ranks {who} share GPU {gpu}, of {len(gpus)} for {len(ranks)} ranks"
