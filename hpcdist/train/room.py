"""Memory for what the ranks add up: where those of a node can work in each other's, or memory of their own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mpi4py import MPI
from numpy.typing import DTypeLike

import hpcdist
from hpcdist.choosing import is_shared
from hpcdist.device.host import CPU
from hpcdist.device.kinds import Device
from hpcdist.errors import AgreedError
from hpcdist.selection import ENVIRONMENT
from hpcdist.train.config import AUTO, Config


def room_for(
    comm: MPI.Intracomm, device: Device, config: Config, wanted: Sequence[tuple[int, DTypeLike]]
) -> tuple[list[Any], str]:
    """Flat arrays of (count, dtype), and why the ranks of a node cannot share them, if that is news. Collective.

    Raises:
        AgreedError: on all ranks, if the algorithm that was asked for needs shared memory and there is no room.
    """
    if comm.bcast(_may_share(comm, device, config)):  # rank 0's environment counts, as its table does
        try:
            return [hpcdist.empty(*each, comm) for each in wanted], ""
        except AgreedError as error:
            if config.algorithm != AUTO:
                raise
            return [device.empty(*each) for each in wanted], str(error)
    return [device.empty(*each) for each in wanted], ""


def _may_share(comm: MPI.Intracomm, device: Device, config: Config) -> bool:
    """Whether an all-reduce may come to work in shared host memory: it was asked for, or nobody says otherwise."""
    if device.kind != CPU:
        return False
    table = config.selection or os.environ.get(ENVIRONMENT)
    return is_shared(config.algorithm) or (config.algorithm == AUTO and comm.size > 1 and not table)
