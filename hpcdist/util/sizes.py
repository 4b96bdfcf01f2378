"""Sizes in bytes as people write them: "64MiB", "4K", "8"; suffixes are powers of 1024, as in nccl-tests."""

from __future__ import annotations

import re

from hpcdist.util.parameters import Parsed

UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

_WRITTEN = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*([KMGT]?)(i?B)?\s*", re.IGNORECASE)
_POWER = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_bytes(text: str) -> int:
    """Number of bytes written as `text`: "8", "64 B", "4K", "1.5MiB".

    K, M, G and T alone mean 1024, 1024**2, and so on. "kB" and "MB" are refused, because some read them as
    1000 and others as 1024, and the two differ by five percent at a megabyte.

    Raises:
        ValueError: if `text` is no size, or not a whole number of bytes.
    """
    match = _WRITTEN.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no size in bytes; write for example 8, 4K, 64KiB or 1.5MiB")
    number, prefix, unit = match[1], match[2].upper(), (match[3] or "").upper()
    if prefix and unit == "B":
        raise ValueError(f"{text!r} may mean powers of 1000 or of 1024; write {number}{prefix}iB for powers of 1024")
    if unit == "IB" and not prefix:
        raise ValueError(f"{text!r} is no size in bytes; write {number} or {number}B")
    nbytes = float(number) * 1024 ** _POWER[prefix]
    if not nbytes.is_integer():
        raise ValueError(f"{text!r} is not a whole number of bytes ({nbytes:g})")
    return int(nbytes) if "." in number else int(number) * 1024 ** _POWER[prefix]


def format_bytes(nbytes: float) -> str:
    """Write bytes for people, at most four digits: 8 -> "8 B", 1536 -> "1.5 KiB", 4194304 -> "4 MiB"."""
    value, unit = float(nbytes), 0
    while value >= 1024 and unit < len(UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.4g} {UNITS[unit]}"


BYTES = Parsed("bytes", parse_bytes)  # as every command reads sizes
