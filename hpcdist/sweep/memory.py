"""Whether the nodes have the memory that a sweep takes, asked before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from mpi4py import MPI

from hpcdist.algorithms import SHARED, allreduce
from hpcdist.device.host import CPU
from hpcdist.device.paths import STAGED
from hpcdist.mpi.collective_errors import agree
from hpcdist.schedule.layout import Layout
from hpcdist.schedule.lower import lower
from hpcdist.sweep.options import Options
from hpcdist.sweep.record import LIBRARY, PLACEMENTS
from hpcdist.util.cgroups import available_memory
from hpcdist.util.sizes import format_bytes

BUFFERS = 2  # source and target
CHECK_BUFFERS = 2  # a rank's own numbers and the expected result
STAGING_BUFFERS = 2  # for the MPI library's all-reduce of device buffers, in each placement
STAGED_INBOXES = 2  # what comes, and what goes
SAMPLE = 16  # elements per chunk: enough to see what part of a buffer an inbox is


def check(comm: MPI.Intracomm, topology: Sequence[int], options: Options) -> None:
    """Compare what the largest size takes with what is available on each node; collective.

    Raises:
        AgreedError: on all ranks, naming the first rank of each node that has too little.
    """
    needs = comm.allgather(sum(needed(comm.rank, topology, options)))
    here = [rank for rank, node in enumerate(topology) if node == topology[comm.rank]]
    problem = None
    if comm.rank == here[0]:
        problem = _problem(len(here), sum(needs[rank] for rank in here), options, available_memory())
    agree(comm, problem is None, problem or "")


def needed(rank: int, topology: Sequence[int], options: Options) -> tuple[int, int]:
    """Bytes of host memory that a rank takes at the largest size, at the least: (buffers, inboxes of all plans).

    Buffers in device memory are compared with numbers in host memory, and staged plans have their inboxes there.
    """
    buffers, staged = BUFFERS, 1
    if options.device != CPU:
        buffers = options.check + STAGING_BUFFERS * options.library
        staged = STAGED_INBOXES * (STAGED in options.path)
    buffers += CHECK_BUFFERS * options.check
    ours = [name for name in options.names if name != LIBRARY and name.partition(":")[0] != SHARED]
    inboxes = sum(_inbox(name, rank, topology) for name in ours)
    plans = len(PLACEMENTS) * len(options.segments)  # of each algorithm
    return buffers * options.max_bytes, int(plans * staged * inboxes * options.max_bytes)


def _inbox(name: str, rank: int, topology: Sequence[int]) -> float:
    """The inbox of a rank, as a part of the buffer; it depends neither on the size nor on the segments."""
    schedule = allreduce(name, len(topology), topology)
    count = SAMPLE * schedule.chunks
    return lower(schedule, rank, Layout.near_equal(schedule, count), count).inbox / count


def _problem(ranks: int, need: int, options: Options, available: int) -> str | None:
    if need <= available:
        return None
    return (
        f"--max-bytes {format_bytes(options.max_bytes)} takes at least {format_bytes(need)} on this node, for buffers "
        f"and inboxes of {ranks} rank{'s' if ranks > 1 else ''}, and {format_bytes(available)} of its memory are "
        "available; take a smaller --max-bytes, fewer --algorithms or fewer ranks per node"
    )
