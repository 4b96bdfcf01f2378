"""Names and manifest of a checkpoint; `reader` and `writer` have no other agreement."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xxhash

FORMAT = 1
STATE, MANIFEST = "state.h5", "manifest.json"
COMMITTED = re.compile(r"step-(\d{8,})")


def directory_name(step: int) -> str:
    """Name of the committed checkpoint after `step` steps."""
    return f"step-{step:08d}"


def draft_suffix(token: str) -> str:
    """What is appended to the name while the run with this token writes, or deletes, the directory."""
    return f".tmp-{token}"


def digest(values: np.ndarray | bytes) -> str:
    """Checksum of an array's bytes in C order; it finds damage, not malice."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data if isinstance(values, np.ndarray) else values
    return f"xxh64:{xxhash.xxh64_hexdigest(raw)}"


@dataclass(frozen=True)
class Entry:
    """One array: where it lies and how to know that it is whole."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint holds.

    Attributes:
        step: Steps done.
        token: Fencing token of the run that wrote it.
        facts: Whatever else the writer wants back, as JSON.
        files: Size in bytes by name.
        arrays: Entry by name.
    """

    step: int
    token: str
    facts: dict[str, Any]
    files: dict[str, int]
    arrays: dict[str, Entry]

    def to_json(self) -> str:
        """Text with its own digest, so that damage to the manifest shows as well."""
        body = asdict(self)
        outer = {"format": FORMAT, "digest": digest(canonical(body)), "manifest": body}
        return json.dumps(outer, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Inverse of `to_json`.

        Raises:
            ValueError: the text is damaged, or of another format.
        """
        outer = json.loads(text)
        if not isinstance(outer, dict) or outer.get("format") != FORMAT:
            raise ValueError(f"not a manifest of format {FORMAT}")
        body = outer["manifest"]
        if digest(canonical(body)) != outer["digest"]:
            raise ValueError("the manifest does not fit its digest")
        entries = {name: Entry(**{**entry, "shape": tuple(entry["shape"])}) for name, entry in body["arrays"].items()}
        return cls(**{**body, "arrays": entries})


def canonical(body: dict[str, Any]) -> bytes:
    """The one spelling of `body` of which the digest is taken."""
    return json.dumps(body, sort_keys=True).encode()
