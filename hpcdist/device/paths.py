"""How data in device memory travels: the paths there are, and which of them is taken and why, in words.

staged: through page-locked host memory, in segments; works with every MPI. aware: MPI is handed device memory. peer:
the ranks of one node read each other's device memory. The decision is a function of what all ranks together know, so
that all of them take the same path; they are asked in `hpcdist.collectives.decide`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from hpcdist.errors import ArgumentError

AUTO, HOST, STAGED, AWARE, PEER = "auto", "host", "staged", "aware", "peer"
ASKABLE = (AUTO, STAGED, AWARE, PEER)
ENVIRONMENT = "HPCDIST_PATH"

IN_HOST_MEMORY = "the buffers are in host memory"


@dataclass(frozen=True)
class Facts:
    """What all ranks together know.

    Attributes:
        nodes: on how many nodes they are.
        unshareable: why memory of some buffers cannot be opened by another process, naming ranks; None if all can.
        unopened: why opening the others' buffers has failed, naming ranks; None if it has not, or was not tried.
        aware: whether MPI takes device memory; None if that is not known.
        source: who says so, or why it is not known.
    """

    nodes: int
    unshareable: str | None
    unopened: str | None
    aware: bool | None
    source: str


def asked_for(path: str) -> str:
    """The path that an argument stands for: with "auto", the one that HPCDIST_PATH names if it is set."""
    return (os.environ.get(ENVIRONMENT) or AUTO) if path == AUTO else path


def decide(asked: str, facts: Facts) -> tuple[str, str]:
    """(path, why): the one that was asked for, or the first of peer, aware and staged that nothing forbids.

    Raises: ArgumentError if the path that was asked for is not possible.
    """
    if asked not in ASKABLE:
        who = f" ({ENVIRONMENT})" if os.environ.get(ENVIRONMENT) == asked else ""
        raise ArgumentError(f"there is no path {asked!r}{who}; choose from {', '.join(ASKABLE)}")
    forbidden = {PEER: against_peer(facts), AWARE: against_aware(facts), STAGED: None}
    if asked == AUTO:
        path = next(path for path, reason in forbidden.items() if reason is None)
        return path, _why(path, facts, forbidden)
    if forbidden[asked]:
        raise ArgumentError(f"path={asked!r} is not possible: {forbidden[asked]}. {_instead(asked, facts)}")
    return asked, f"{ENVIRONMENT}={asked}" if os.environ.get(ENVIRONMENT) == asked else "it was asked for"


def against_peer(facts: Facts) -> str | None:
    """Why the ranks cannot read each other's device memory, or None if they can."""
    if facts.nodes > 1:
        return f"the ranks are on {facts.nodes} nodes"
    return facts.unshareable or facts.unopened


def against_aware(facts: Facts) -> str | None:
    """Why MPI is not handed device memory, or None if it may be; one that does not take it crashes.

    Many that do crash on memory that cannot be shared, since they share it themselves; and where the ranks of a node
    cannot open each other's, which a probe that sends to itself does not show.
    """
    if facts.aware is None:
        return f"it is not known that this MPI takes device memory ({facts.source})"
    if not facts.aware:
        return f"this MPI does not take device memory ({facts.source})"
    return facts.unshareable or (facts.unopened if facts.nodes == 1 else None)


def _why(path: str, facts: Facts, forbidden: dict[str, str | None]) -> str:
    if path == PEER:
        return "the ranks of one node, which can open each other's device memory"
    taken = f"this MPI takes device memory ({facts.source})"
    said = taken if path == AWARE else f"staged through host memory: {forbidden[AWARE]}"
    return said if forbidden[AWARE] == forbidden[PEER] else f"{said}; not by memory of peers: {forbidden[PEER]}"


def _instead(path: str, facts: Facts) -> str:
    if path == AWARE and not facts.aware:
        return (
            "Run `hpcdist doctor` in a job on these nodes, which finds out in a process of its own; or set "
            "HPCDIST_CUDA_AWARE=1 if you know that it does; or leave the path to 'auto'."
        )
    return "Leave the path to 'auto', or take 'staged', which always works."
