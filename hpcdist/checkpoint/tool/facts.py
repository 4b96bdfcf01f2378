"""The facts of a checkpoint, flat: for people, and to be compared."""

from __future__ import annotations

import json
from typing import Any


def flat(facts: dict[str, Any], before: str = "") -> dict[str, str]:
    """Every fact as JSON, by its path: {"data": {"path": "x"}} -> {"data.path": '"x"'}."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return found
