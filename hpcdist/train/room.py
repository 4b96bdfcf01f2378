"""Memory for what the ranks add up: where those of a node can work in each other's, or memory of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI
from numpy.typing import DTypeLike

from hpcdist.collectives import calls
from hpcdist.collectives.decide import is_shared
from hpcdist.device.host import CPU
from hpcdist.device.kinds import Device
from hpcdist.errors import AgreedError
from hpcdist.train.config import AUTO, Config
from hpcdist.transport.mpi import transport_of
from hpcdist.transport.shared_memory import home_of
from hpcdist.tuning.auto import ENVIRONMENT


def room_for(
    comm: MPI.Intracomm, device: Device, config: Config, algorithm: str, wanted: Sequence[tuple[int, DTypeLike]]
) -> tuple[list[Any], str]:
    """Flat arrays of (count, dtype), and why the ranks of a node cannot share them, if that is news. Collective.

    Args:
        comm: The ranks.
        device: Where this rank computes.
        config: The settings.
        algorithm: How the arrays are added up: as the settings say, or as before the checkpoint.
        wanted: The arrays.

    Raises:
        AgreedError: on all ranks, if the algorithm that was asked for needs shared memory and there is no room.
    """
    why = ""
    if comm.bcast(_may_share(comm, device, config, algorithm)):  # rank 0's environment counts, as its table does
        try:
            return _shared(comm, wanted), ""
        except AgreedError as error:
            if is_shared(config.algorithm):
                raise
            why = str(error)
        calls.release(comm)  # what was there before the room ended; not sooner, as the error refers to it
    return [device.empty(*each) for each in wanted], why


def _shared(comm: MPI.Intracomm, wanted: Sequence[tuple[int, DTypeLike]]) -> list[Any]:
    """Arrays that the ranks of a node share, and the flags by which they wait for each other. Collective."""
    arrays = [calls.empty(*each, comm) for each in wanted]
    home_of(transport_of(comm)).line(0)  # on the page where those of the plans will be
    return arrays


def _may_share(comm: MPI.Intracomm, device: Device, config: Config, algorithm: str) -> bool:
    """Whether an all-reduce may come to work in shared host memory: that is known, or nobody says otherwise."""
    if device.kind != CPU:
        return False
    table = config.selection or os.environ.get(ENVIRONMENT)
    return is_shared(algorithm) or (algorithm == AUTO and comm.size > 1 and not table)
