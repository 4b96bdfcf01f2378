"""What a job is told, in a file that its ranks read, and the names of the cases."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from hpcdist.algorithms import ALLREDUCE, SHARED
from hpcdist.util import atomic_files, typed_json

LIBRARY = "library"  # the library's own all-reduce, in place
AUTO = "auto"  # ours, a bound plan on the same ordinary array
CALL = "one line"  # ours, `hpcdist.allreduce` of the same array
NAMES = (*ALLREDUCE, SHARED)  # ours, each algorithm
REGISTERED = "registered"  # ours, a bound plan on an array of `hpcdist.empty`
COPY = "memcpy"  # a copy of the buffer, by all ranks at the same time
RAW = "raw TCP"  # two-way between neighbours, as many bytes as an all-reduce must send

ORDINARY = "ordinary"
HALVES = ("float16", "bfloat16")
KINDS = {  # case -> (type, kind of array)
    f"{dtype}, {kind}": (dtype, kind) for kind in (ORDINARY, REGISTERED) for dtype in ("float32", *HALVES)
}

OFFSETS = (0, 16, 20, 64, 1056, 4080)  # bytes; that of numpy.empty is 16 from 128 KiB up, that of its [1:] 20
ADDRESSES: dict[str, tuple[int, int | None]] = {  # name -> (offset of the buffer, that of the result if not in place)
    **{f"{offset}": (offset, None) for offset in OFFSETS},
    **{f"{offset} to {offset}": (offset, offset) for offset in OFFSETS},
    "16 to 1056": (16, 1056),
}


def addressed(case: str, name: str) -> str:
    """The case `LIBRARY` or `AUTO` at an address."""
    return f"{case}, {name}"


ADDRESSED = {  # case -> (case without address, offsets)
    addressed(case, name): (case, offsets) for name, offsets in ADDRESSES.items() for case in (LIBRARY, AUTO)
}

CHOOSING = frozenset((AUTO, CALL, REGISTERED, *KINDS, *ADDRESSED))  # cases in which "auto" chooses


@dataclass(frozen=True)
class Link:
    """The rate [bit/s] of the hosts' links, and how deep their token buckets are [bytes]: as `plan.SHAPE` says."""

    rate: int
    bucket: int = 256 * 1024


class Samples(NamedTuple):
    """How many there are of a case: at least, at most, of how many calls at most, and calls that warm up before."""

    least: int
    most: int
    iterations: int
    warmup: int


@dataclass(frozen=True)
class Task:
    """What one job measures.

    Attributes:
        sizes: Bytes of a buffer of float32; half types have as many elements.
        cases: See above.
        out: Where rank 0 writes, anew after each size.
        seconds: About so long for a case at a size.
        least: Samples, however long they take.
        most: Samples, however short they are.
        iterations: Calls in a row in a sample, at most.
        warmup: Calls before, beside the one that is checked.
        turn: Of the round, which rotates the order of the cases.
        link: Whose token buckets are emptied before each sample; None on one machine.
        priced: Whether "auto" goes by the price model, and what it foresees of each case is told.
        model: Its prices, from a job before; none if this one is to fit them.
        racks: That of each rank, taken for its node; none where racks are no slower to reach than hosts.
    """

    sizes: tuple[int, ...]
    cases: tuple[str, ...]
    out: str
    seconds: float
    least: int
    most: int
    iterations: int
    warmup: int
    turn: int
    link: Link | None = None
    priced: bool = False
    model: dict[str, float | None] | None = None
    racks: tuple[int, ...] = ()

    def write(self, path: Path) -> None:
        """For `read`, and for other programs that read JSON."""
        atomic_files.write_text(path, json.dumps(asdict(self)) + "\n")

    @classmethod
    def read(cls, path: Path) -> Task:
        """What `write` wrote."""
        return typed_json.decode(path.read_bytes(), cls, str(path))
