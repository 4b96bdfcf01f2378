"""Files that are whole or absent after a crash: written aside, made durable, put in place by one rename."""

from __future__ import annotations

import csv
import io
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DIGITS = 12  # that tell drafts of one file apart


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY, mode: int = 0o666) -> Iterator[int]:
    """A file descriptor, which is closed when the block ends; arguments are those of os.open."""
    descriptor = os.open(path, flags, mode)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def fsync(path: Path) -> None:
    """Make what was written to the file or directory `path` survive a power cut."""
    with opened(path) as descriptor:
        os.fsync(descriptor)


@contextmanager
def replacing(path: Path, parents: bool = True) -> Iterator[Path]:
    """Give a name to write to; when the block ends well, the file appears as `path`, durable and whole.

    If the block fails, `path` stays as it was and the unfinished file is removed. A process that still has
    the old `path` open goes on with the old file and cannot touch the new one.

    Args:
        path: Where the file shall appear.
        parents: Whether missing parent directories are made.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last, since writers such as matplotlib choose the format by it.
    draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:DIGITS]}{path.suffix}")
    try:
        yield draft
        fsync(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    fsync(path.parent)


def drafts_of(path: Path) -> list[Path]:
    """What processes that were killed while they replaced `path` have left."""
    return [*path.parent.glob(f".{path.stem}.{'[0-9a-f]' * DIGITS}{path.suffix}")]


def write_text(path: Path, text: str, parents: bool = True) -> None:
    """Put `text` in the file `path`, atomically and durably; see `replacing`."""
    with replacing(path, parents) as draft:
        draft.write_text(text, encoding="utf-8")


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Put one line per row in the file `path`, below a line of names; see `write_text`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
