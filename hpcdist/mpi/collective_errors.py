"""What fails on some ranks only, such as rank 0's work on the disk, is raised on all: others would wait for ever."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from mpi4py import MPI

from hpcdist.errors import AgreedError
from hpcdist.util import watchdog

T = TypeVar("T")


def on_all(comm: MPI.Intracomm, action: Callable[[], T]) -> T:
    """Call `action`, which must not communicate, on every rank; returns this rank's result. Collective.

    Raises:
        AgreedError: on all ranks, if `action` raised on any.
    """
    result, trouble = None, None
    try:
        result = action()
    except Exception as error:
        trouble = error
    try:
        agree(comm, trouble is None, f"{type(trouble).__name__}: {trouble}" if trouble else "")
    except RuntimeError as agreed:
        raise agreed from trouble
    return result  # type: ignore[return-value]  # it is None only if `action` returns None


def on_root(comm: MPI.Intracomm, action: Callable[[], T]) -> T:
    """Call `action` on rank 0 only and give its result to all ranks. Collective.

    Raises:
        AgreedError: on all ranks, if `action` raised.
    """
    result = on_all(comm, action if comm.rank == 0 else lambda: None)
    return comm.bcast(result)


def agree(comm: MPI.Intracomm, ok: bool, message: str, error: type[AgreedError] = AgreedError) -> None:
    """Collective: go on only if every rank is well.

    Args:
        comm: who must agree.
        ok: whether this rank is.
        message: what is wrong here, if it is not.
        error: what to raise.

    Raises: `error` on all ranks alike, naming the ranks and what they said.
    """
    with watchdog.waiting(f"rank {comm.rank} of {comm.size} waits for all ranks to say whether they can go on"):
        problems = comm.allgather(None if ok else message)
    raise_together(problems, error)


def agree_on(comm: MPI.Intracomm, named: dict[str, object]) -> None:
    """Collective: see that all ranks mean the same.

    Args:
        comm: who must agree.
        named: what each value is called, with the same names on all ranks.

    Raises: AgreedError on all ranks alike, with the values that differ and the ranks that have them.
    """
    with watchdog.waiting(f"rank {comm.rank} of {comm.size} waits for all ranks to compare {', '.join(named)}"):
        everywhere = comm.allgather({name: repr(value) for name, value in named.items()})
    different = [
        f"{name} must be the same on all ranks, but {who_says([each.get(name) for each in everywhere])}"
        for name in everywhere[0]
        if len({each.get(name) for each in everywhere}) > 1
    ]
    if different:
        raise AgreedError("; ".join(different))


def raise_together(problems: Sequence[str | None], error: type[AgreedError] = AgreedError) -> None:
    """Raise if any rank has a problem; `problems` is the same everywhere, so all raise alike."""
    if any(problem is not None for problem in problems):
        raise error(who_says(problems))


def who_says(texts: Sequence[str | None]) -> str:
    """What ranks say, each text once, with those who say it: "rank 3: no room; ranks 0-2, 5: ..."."""
    ranks_with: dict[str, list[int]] = {}
    for rank, text in enumerate(texts):
        if text is not None:
            ranks_with.setdefault(text, []).append(rank)
    return "; ".join(f"{naming(ranks)}: {text}" for text, ranks in ranks_with.items())


def naming(ranks: Sequence[int]) -> str:
    """Ranks in words: "rank 3", "ranks 0-2, 5"."""
    spans: list[list[int]] = []
    for rank in sorted(ranks):
        if spans and rank == spans[-1][1] + 1:
            spans[-1][1] = rank
        else:
            spans.append([rank, rank])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"rank {text}" if len(ranks) == 1 else f"ranks {text}"
