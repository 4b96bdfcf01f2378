"""Whether ranks that compute on GPUs have one each."""

from __future__ import annotations

from mpi4py import MPI

from hpcdist.device.kinds import Device
from hpcdist.errors import AgreedError
from hpcdist.mpi.collective_errors import on_all
from hpcdist.mpi.world import topology_of


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
