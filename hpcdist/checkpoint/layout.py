"""Names and manifest of a checkpoint; readers and writers have no other agreement. In prose: FORMAT.md."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from hpcdist.util import typed_json

FORMAT = 2
STATE, MANIFEST = "state.h5", "manifest.json"
LAYOUTS = ("shards", "single", "collective")  # how the files of a checkpoint are written
COMPRESSIONS = ("none", "gzip")
PIECE = 64 << 20  # bytes of a piece at most, or one row: what is checked, and found damaged, as a whole
COMMITTED = re.compile(r"step-(\d{8,})")


def directory_name(step: int) -> str:
    """Name of the committed checkpoint after `step` steps."""
    return f"step-{step:08d}"


def step_of(name: str) -> int:
    """The steps done before a checkpoint, by its name or by that of its draft."""
    return int(name.removeprefix("step-").partition(".")[0])


def draft_suffix(token: str) -> str:
    """What is appended to the name while the run with this token writes, or deletes, the directory."""
    return f".tmp-{token}"


def shard_name(number: int, writers: int) -> str:
    """The file of one of several writers."""
    return f"shard-{number:04d}-of-{writers:04d}.h5"


def digest(values: np.ndarray | bytes) -> str:
    """Checksum of an array's bytes in C order; it finds damage, not malice."""
    raw = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data if isinstance(values, np.ndarray) else values
    return f"xxh3:{xxhash.xxh3_64_hexdigest(raw)}"


class Kind(NamedTuple):
    """What an array is, with dtypes as NumPy writes them."""

    shape: tuple[int, ...]
    dtype: str


Shapes = Mapping[str, Kind]


def shapes_of(arrays: Mapping[str, NDArray]) -> Shapes:
    """Shapes and dtypes of arrays."""
    return {name: Kind(values.shape, values.dtype.str) for name, values in arrays.items()}


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of an array, where they lie, and how to know that they are whole.

    A row is what one index of the first axis selects; an array without axes is one row.

    Attributes:
        file: Name of the file, in which the data set has the array's name.
        at: Row of the data set at which the piece begins.
        start: Row of the array at which it begins.
        stop: Row of the array before which it ends.
        digest: Of its bytes.
    """

    file: str
    at: int
    start: int
    stop: int
    digest: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One array; its pieces, in order, hold every row once."""

    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]

    @property
    def complete(self) -> bool:
        """Whether the pieces, in their order, hold every row once."""
        ends = [0, *(piece.stop for piece in self.pieces)]
        starts = [piece.start for piece in self.pieces]
        return bool(starts) and starts == ends[:-1] and ends[-1] == rows(self) and ends == sorted(ends)


def rows(like: Kind | Entry) -> int:
    """Rows of an array: the length of its first axis."""
    return like.shape[0] if like.shape else 1


def rows_of(values: NDArray, start: int, stop: int) -> NDArray:
    """Rows of an array as a view; one without axes is one row."""
    return values[start:stop] if values.ndim else values


def row_nbytes(like: Kind | Entry | NDArray) -> int:
    """Bytes of a row."""
    return math.prod(like.shape[1:]) * np.dtype(like.dtype).itemsize


def piece_nbytes(entry: Entry, piece: Piece) -> int:
    """Bytes of a piece of an array."""
    return (piece.stop - piece.start) * row_nbytes(entry)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
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
        body = msgspec.to_builtins(self)
        outer = {"format": FORMAT, "digest": digest(canonical(body)), "manifest": body}
        return json.dumps(outer, indent=1, allow_nan=False) + "\n"

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
        return typed_json.convert(body, cls, "manifest")


def canonical(body: dict[str, Any]) -> bytes:
    """The one spelling of `body` of which the digest is taken."""
    return json.dumps(body, sort_keys=True).encode()
