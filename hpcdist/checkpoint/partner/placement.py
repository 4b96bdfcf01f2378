"""Which rank keeps the second copy of which rank's share, and what a rank is on its node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Place:
    """A rank among the nodes; `topology` has the node of every rank."""

    rank: int
    topology: tuple[int, ...]

    @cached_property
    def neighbours(self) -> list[int]:
        """The ranks of this node."""
        return [rank for rank, node in enumerate(self.topology) if node == self.topology[self.rank]]

    @property
    def leads(self) -> bool:
        """Whether this rank looks after the node's files."""
        return self.rank == self.neighbours[0]

    @cached_property
    def partners(self) -> list[int]:
        """See `partners`."""
        return partners(self.topology)

    def kept(self, rank: int) -> list[int]:
        """The ranks whose shares `rank` keeps beside its own."""
        return [other for other, partner in enumerate(self.partners) if partner == rank != other]


def members(topology: Sequence[int]) -> list[list[int]]:
    """The ranks of every node, nodes in the order of their lowest ranks."""
    nodes: dict[int, list[int]] = {}
    for rank, node in enumerate(topology):
        nodes.setdefault(node, []).append(rank)
    return list(nodes.values())


def partners(topology: Sequence[int]) -> list[int]:
    """For each rank the one that keeps a copy of its share: on another node if there is one, else the next rank.

    The other node is half the nodes away: what fails together, such as a rack, mostly has neighbouring numbers.
    With an even number of nodes they are partners in pairs, so that fewest pairs of lost nodes lose a share.
    """
    nodes = members(topology)
    found = list(range(len(topology)))
    for number, ranks in enumerate(nodes):
        others = nodes[(number + len(nodes) // 2) % len(nodes)]
        for place, rank in enumerate(ranks):
            found[rank] = others[(place + (len(nodes) == 1)) % len(others)]
    return found
