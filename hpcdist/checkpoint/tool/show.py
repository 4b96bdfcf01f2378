"""What a checkpoint's manifest says, for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpcdist.checkpoint.layout import Entry, Manifest
from hpcdist.checkpoint.tool.listing import committed_at
from hpcdist.checkpoint.tool.rows import entry_nbytes
from hpcdist.util.sizes import format_bytes


def text(path: Path, manifest: Manifest) -> Iterator[str]:
    """The manifest of the checkpoint `path`, in lines."""
    yield f"step {manifest.step}, committed {committed_at(path)} by the run with the token {manifest.token}"
    yield from _section("facts", list(flat(manifest.facts).items()))
    yield from _section("files", [(name, format_bytes(nbytes)) for name, nbytes in manifest.files.items()])
    heads = ("array", "shape", "dtype", "size", "pieces", "in")
    yield from _section("arrays", [heads, *(_array(name, entry) for name, entry in manifest.arrays.items())])


def _array(name: str, entry: Entry) -> tuple[str, ...]:
    kind = np.dtype(entry.dtype)
    files = sorted({piece.file for piece in entry.pieces})
    where = files[0] if len(files) == 1 else f"{files[0]} .. {files[-1]}"
    size = format_bytes(entry_nbytes(entry))
    return (name, str(list(entry.shape)), f"{kind.name} {entry.dtype}", size, str(len(entry.pieces)), where)


def _section(title: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Rows in columns under a title."""
    yield title
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def flat(facts: dict[str, Any], before: str = "") -> dict[str, str]:
    """Every fact as JSON, by its path: {"data": {"path": "x"}} -> {"data.path": '"x"'}."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return found
