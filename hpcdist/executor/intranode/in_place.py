"""Ranks of a node that work in each other's arrays, which lie in memory that they share."""

from __future__ import annotations

from collections.abc import Sequence

from numpy.typing import NDArray

from hpcdist.device.buffers import address_of
from hpcdist.executor.bind import Memory, Peers
from hpcdist.executor.intranode.capability import compiled_on_all
from hpcdist.transport.barrier import Barrier, FlagBarrier, MessageBarrier
from hpcdist.transport.mpi import MpiTransport, give_mpi_a_turn
from hpcdist.transport.shared_memory import home_of, memory_of, views


def peers_in_place(
    transport: MpiTransport, ranks: Sequence[int], tag: int, result: NDArray, source: NDArray | None
) -> Peers:
    """Collective the first time on a communicator: the arrays of the other ranks of this node.

    Args:
        transport: all ranks.
        ranks: those of this node, this one among them.
        tag: of the plan.
        result: this rank's, an array of `empty` or a part of one; those of others lie at the same place of theirs.
        source: this rank's input, if the program reads the inputs of others, too.
    """
    compiled, home = compiled_on_all(transport), home_of(transport)
    results = views(transport, result, ranks)
    inputs: list[NDArray] | list[None] = [None] * len(ranks)
    if source is not None:
        inputs = views(transport, source, ranks)
    flag = home.flag(tag)

    def barrier(what: str) -> Barrier:
        if compiled:
            from hpcdist.transport import barrier_flags

            flags = [*map(address_of, views(transport, flag, ranks))]
            return FlagBarrier(
                barrier_flags.job(ranks.index(transport.rank), flags, transport.crowded), ranks, what, give_mpi_a_turn
            )
        memories = {id(memory): memory for memory in map(memory_of, (result, source)) if memory}
        return MessageBarrier(transport, ranks, tag, [memory.window.sync for memory in memories.values()], what)

    memories = {rank: Memory(*both) for rank, both in zip(ranks, zip(results, inputs, strict=True), strict=True)}
    return Peers(memories, barrier, keep=(result, source, flag))
