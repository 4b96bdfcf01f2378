"""Which history the checkpoints of a directory belong to: what is begun anew there is another run.

Copies of a state outside the directory are kept under this name, so that those of a run that was given up cannot come
back as the newest.
"""

from __future__ import annotations

import uuid

from hpcdist.checkpoint.fence import Fence
from hpcdist.durable import write_text

HISTORY = "HISTORY"


def history_of(fence: Fence, anew: bool) -> tuple[str, str]:
    """The name of the history before, empty if there was none, and of the one from now on.

    Args:
        fence: The claim on the directory.
        anew: Whether a run is begun, instead of going on.

    Raises:
        FencedOut: another run has taken the directory.
    """
    path = fence.directory / HISTORY
    with fence.held():
        before = path.read_text(encoding="utf-8").strip() if path.exists() else ""
        if before and not anew:
            return before, before
        name = uuid.uuid4().hex[:12]
        write_text(path, name + "\n")
        return before, name
