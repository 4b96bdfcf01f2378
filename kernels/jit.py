"""HPCDIST_COMPILED: compiled code where it works if unset, none if 0, and no other if 1."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

SWITCH = "HPCDIST_COMPILED"

T = TypeVar("T")


def compiled_or_none(load: Callable[[], T]) -> tuple[T | None, str | None]:
    """(what `load` gives, or None to do without; what is wrong, if that is an error).

    Ranks that must do alike exchange the second before any raises it.
    """
    wanted = os.environ.get(SWITCH, "")
    if wanted not in ("", "0", "1"):
        return None, f"{SWITCH} must be 0 or 1, not {wanted!r}"
    if wanted == "0":
        return None, None
    try:
        return load(), None
    except Exception as error:  # a broken installation raises all kinds: OSError, SystemError, AttributeError
        said = f"{SWITCH}=1, but there is no compiled code: {type(error).__name__}: {error}; see hpcdist[fast]"
        return None, said if wanted == "1" else None
