"""Up to which size Open MPI sends a message between hosts at once over TCP.

A larger one is announced, and sent when the receiver answers. Answers wait in their connection behind the data that go
the same way, so two hosts that send each other large messages take turns: they move 15 MB/s each way where the link
moves 25, and all of it in messages that are sent at once.
"""

from __future__ import annotations

from functools import cache

from mpi4py import MPI

from hpcdist.mpi.cvars import value_of

HEADER = 1 << 12  # bytes of the limit left to what travels before the data; a page, so that pieces are whole pages
LEAST = 1 << 14  # bytes; pieces that are still smaller cost more as messages than they gain

SENDS_BY_TCP = ("pml_ob1_unexpected_limit", "btl_tcp_eager_limit")  # what Open MPI knows only while it uses them
SENDS_OTHERWISE = tuple(f"btl_{name}_eager_limit" for name in ("openib", "usnic", "ugni", "portals4"))


def sent_at_once(comm: MPI.Intracomm) -> int | None:
    """Collective: bytes of the largest message that all ranks send to other hosts at once over Open MPI's TCP.

    None where messages travel in another way, or the limit is too low to be of use.
    """
    least = comm.allreduce(_limit() - HEADER, MPI.MIN)
    return least if least >= LEAST else None


@cache
def _limit() -> int:
    """Bytes with their header; 0 where messages do not travel over Open MPI's TCP."""
    by_tcp, otherwise = ([value_of(name) for name in names] for names in (SENDS_BY_TCP, SENDS_OTHERWISE))
    only_by_tcp = None not in by_tcp and set(otherwise) == {None}
    return (by_tcp[-1] or 0) if only_by_tcp else 0
