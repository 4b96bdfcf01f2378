"""The folder of the user for what can be made again."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path


def user_cache(environment: Mapping[str, str] = os.environ) -> Path:
    """$XDG_CACHE_HOME/hpcdist, or ~/.cache/hpcdist; it need not be there yet.

    Raises:
        OSError: This user has no home, as in a container that knows no users; says what to do.
    """
    chosen = environment.get("XDG_CACHE_HOME")
    try:
        return Path(chosen or Path.home() / ".cache") / "hpcdist"
    except RuntimeError:
        advice = "this user has no home folder; set HOME, or XDG_CACHE_HOME, to a folder that can be written"
        raise OSError(errno.ENOENT, advice) from None
