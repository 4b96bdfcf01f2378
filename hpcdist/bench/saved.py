"""Reports that are kept as JSON and read back with a check of all their fields."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np

from hpcdist.util import atomic_files, typed_json


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One result."""


class Saved(msgspec.Struct, forbid_unknown_fields=True, tag_field="version", tag=1):
    """What is kept in a file of its own, with the version of its form."""

    def write_json(self, path: Path, **more: Any) -> None:
        """Write all of it, and what it comes to; the file is whole or absent."""
        document = {**msgspec.to_builtins(self, enc_hook=np.generic.item), **more}
        atomic_files.write_text(path, json.dumps(document, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write_json` wrote.

        Raises: OSError if it cannot be read; ValueError if it is something else.
        """
        return typed_json.decode(path.read_bytes(), cls, str(path))


class Report(Saved):
    """All results of one run, growing as they come."""

    command: Sequence[str]
    start_time: str
    config: dict[str, Any]
    machine: dict[str, Any] = msgspec.field(default_factory=dict)
