"""What single MPI libraries do in their own way, and what they were told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache

from hpcdist.mpi.cvars import Control, setting, value_of

# --- ranks that share cores ---

YIELD = ("mpi_yield_when_idle", "MPIR_CVAR_POLLS_BEFORE_YIELD")  # of Open MPI and of MPICH, 1 where told
YIELD_VARIABLES = ("I_MPI_WAIT_MODE", "I_MPI_THREAD_YIELD")  # of Intel MPI


@cache
def told_to_yield() -> bool:
    """Whether the library was told that ranks share cores, so that a rank that waits gives its core away.

    Its own calls that wait do so then; MPI_Test, by which compiled code waits, does in Open MPI only.
    """
    return 1 in map(value_of, YIELD) or any(os.environ.get(name, "0") != "0" for name in YIELD_VARIABLES)


# --- the eager limit ---

HEADER = 1 << 12  # bytes of the limit left to what travels before the data; a page, so that pieces are whole pages
LEAST = 1 << 14  # bytes; pieces that are still smaller cost more as messages than they gain

SENDS_BY_TCP = ("pml_ob1_unexpected_limit", "btl_tcp_eager_limit")  # what Open MPI knows only while it uses them
SENDS_OTHERWISE = tuple(f"btl_{name}_eager_limit" for name in ("openib", "usnic", "ugni", "portals4"))


def eager_limit(limits: Iterable[int]) -> int | None:
    """Bytes of the largest message that all ranks send to other hosts at once over Open MPI's TCP.

    A larger one is announced, and sent when the receiver answers. Answers wait in their connection behind the data that
    go the same way, so two hosts that send each other large messages take turns: they move 15 MB/s each way where the
    link moves 25, and all of it in messages that are sent at once.

    None where messages travel in another way, or the limit is too low to be of use. `limits` are those of all ranks.
    """
    least = min(limits) - HEADER
    return least if least >= LEAST else None


@cache
def own_limit() -> int:
    """Bytes with their header; 0 where messages do not travel over Open MPI's TCP."""
    by_tcp, otherwise = ([value_of(name) for name in names] for names in (SENDS_BY_TCP, SENDS_OTHERWISE))
    only_by_tcp = None not in by_tcp and set(otherwise) == {None}
    return (by_tcp[-1] or 0) if only_by_tcp else 0


# --- windows ---


@contextmanager
def without_ucx_complaint() -> Iterator[None]:
    """Keep one message of Open MPI from the terminal while the block runs; does nothing in other libraries.

    Where Open MPI was built with UCX and finds no network for it, each rank says so when its first window is made: "OSC
    UCX component priority set inside component query failed". Nothing is wrong: another component makes the window.
    """
    try:
        silence = {Control("opal_common_ucx_verbose"): -1}
    except (LookupError, OSError):
        silence = {}
    with setting(silence):
        yield
