"""Which history the checkpoints of a directory belong to, and which start of the run began at which step.

Copies of a state are kept outside the directory, too, on nodes that a later start may not have seen. What a start has
left there counts only if no later one has gone another way since; and what is begun anew is another history.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from hpcdist.checkpoint.fence import Fence
from hpcdist.util.atomic_files import write_text

HISTORY = "HISTORY"


def history_of(fence: Fence, anew: bool) -> tuple[str, str]:
    """The name of the history before, empty if there was none, and of the one from now on.

    Args:
        fence: The claim on the directory.
        anew: Whether a run is begun, instead of going on.

    Raises:
        FencedOut: another run has taken the directory.
    """
    with fence.held():
        before = _read(fence.directory / HISTORY)
        if before and not anew:
            return before["name"], before["name"]
        name = uuid.uuid4().hex[:12]
        _write(fence.directory / HISTORY, {"name": name, "starts": []})
        return (before["name"] if before else ""), name


def note_start(fence: Fence, step: int) -> None:
    """Note that this start goes on from `step`.

    Raises:
        FencedOut: another run has taken the directory.
    """
    with fence.held():
        history = _read(fence.directory / HISTORY)
        if history:
            starts = [start for start in history["starts"] if start[0] != fence.token]
            _write(fence.directory / HISTORY, {**history, "starts": [*starts, [fence.token, step]]})


def given_up(fence: Fence, token: str, step: int) -> bool:
    """Whether a start that came after the one with this token went on from before `step`, so that it counts no more."""
    history = _read(fence.directory / HISTORY) or {"starts": []}
    tokens = [start[0] for start in history["starts"]]
    if token not in tokens:
        return True
    return any(began < step for _, began in history["starts"][tokens.index(token) + 1 :])


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _write(path: Path, history: dict[str, Any]) -> None:
    write_text(path, json.dumps(history) + "\n")
