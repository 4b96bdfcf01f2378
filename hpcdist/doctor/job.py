"""The running job, as the checks see it: who there is, and how all ranks are asked the same question."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

from mpi4py import MPI

from hpcdist.doctor.limit import Limit
from hpcdist.mpi.collective_errors import raise_together, who_says
from hpcdist.mpi.world import topology_of

T = TypeVar("T")

END = "the end of the check"


class OutOfStep(RuntimeError):
    """Some ranks left a check by an exception of their own while the others went on."""


class Places:
    """Which rank is on which host.

    Args:
        node: the node of every rank, numbered from 0; ranks of a node share its memory.
        host_names: of every rank's host, as it calls itself.
    """

    def __init__(self, node: Sequence[int], host_names: Sequence[str]) -> None:
        self.node, self._host_names = node, host_names

    def host(self, rank: int) -> str:
        """The name of the host of a rank; hosts of one name are told apart by their numbers."""
        return self.names[self.node[rank]]

    @cached_property
    def nodes(self) -> list[list[int]]:
        """The ranks of every node, by its number."""
        return [[r for r in range(len(self.node)) if self.node[r] == node] for node in range(max(self.node) + 1)]

    @cached_property
    def names(self) -> list[str]:
        """The name of every node."""
        names = [self._host_names[ranks[0]] for ranks in self.nodes]
        return [name if names.count(name) == 1 else f"{name}#{number}" for number, name in enumerate(names)]

    @property
    def heads(self) -> list[int]:
        """The first rank of every node."""
        return [ranks[0] for ranks in self.nodes]

    def by_host(self, answers: Sequence[T]) -> dict[str, T]:
        """Host name -> what its first rank answered."""
        return {name: answers[ranks[0]] for name, ranks in zip(self.names, self.nodes, strict=True)}


class Job(Places):
    """The ranks of a communicator and the hosts they are on. Made by all ranks alike.

    Attributes:
        comm: a duplicate, for the doctor's own messages.
        limit: how long a check may take.
    """

    def __init__(self, comm: MPI.Intracomm, limit: Limit) -> None:
        self.comm, self.limit = comm.Dup(), limit
        self.rank, self.size = comm.rank, comm.size
        super().__init__(topology_of(self.comm), self.comm.allgather(socket.gethostname()))
        limit.who = f"rank {self.rank} on {self.host(self.rank)}"

    @property
    def is_head(self) -> bool:
        """Whether this rank is the first of its node."""
        return self.rank in self.heads

    def ask(self, what: str, look: Callable[[], T]) -> list[T]:
        """Collective: every rank looks, and everybody gets the answers of all, by rank.

        Args:
            what: the question, for the report of a rank that does not come back from it.
            look: called on every rank; it must not communicate unless all ranks it talks to are in it, too.

        Raises:
            AgreedError: on all ranks alike, naming those whose `look` raised an exception.
            OutOfStep: if another rank has left the check.
        """
        answer: Any = None
        problem = None
        with self.limit.busy(what):
            try:
                answer = look()
            except Exception as error:
                problem = said(error)
        return self._together(what, answer, problem)

    def ask_rank_0(self, what: str, look: Callable[[], T]) -> T:
        """Collective: rank 0 looks, and everybody gets its answer; raises as `ask` does."""
        return self.ask(what, lambda: look() if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def close(self, problem: str | None) -> str | None:
        """Collective: after a check, what went wrong in it on any rank, the same text everywhere, or None."""
        problems = [said for _, _, said in self.comm.allgather((END, None, problem))]
        if len(set(problems)) == 1:
            return problem
        return who_says(problems)

    def _together(self, what: str, answer: Any, problem: str | None) -> list[Any]:
        answers = self.comm.allgather((what, answer, problem))
        if any(other != what for other, _, _ in answers):
            raise OutOfStep(who_says([said for _, _, said in answers]))
        raise_together([said for _, _, said in answers])
        return [answer for _, answer, _ in answers]


def said(error: BaseException) -> str:
    """An exception in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
