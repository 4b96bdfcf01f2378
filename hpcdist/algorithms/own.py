"""All-reduces of users: registered under a name, taken from a file, or given as a schedule; proven before they run.

A function of yours gets the number of ranks, or that and the node of each rank, and returns a `Schedule`. What ranks
agree on is its name and a digest of its transfers, "mine@1f3a...", so that ranks with other files hear of it.
"""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import xxhash

from hpcdist.schedule.ir import ALLREDUCE, Schedule
from hpcdist.schedule.verify import verify

Maker = Callable[..., Schedule]
FILE = ".py:"  # what stands between a file and the function in it
KEPT = 256  # schedules that were given as such, at most

_registered: dict[str, Maker] = {}
_kept: dict[str, Schedule | ValueError] = {}  # by name and digest; what was refused with the reason


def add(name: str, function: Maker) -> None:
    """Let a name mean an all-reduce; see `hpcdist.register`."""
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"{name!r} cannot be the name of an algorithm: letters, digits and _, as of a function")
    if not callable(function):
        raise TypeError(f"an algorithm is a function from a number of ranks to a Schedule, not {function!r:.60}")
    _registered[name] = function


def is_own(name: str) -> bool:
    """Whether a name is of an algorithm of the user's."""
    return name in _registered or FILE in name or "@" in name


def function_of(name: str) -> Maker:
    """The function behind a name.

    Raises: ValueError if the file cannot be run or has no such function; says why.
    """
    if name in _registered:
        return _registered[name]
    file, _, function = name.rpartition(":")
    path = Path(file)
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise ValueError(f"{name}: {path} cannot be read: {error.strerror}") from None
    found = getattr(_module(path.resolve(), changed), function, None)
    if not callable(found):
        raise ValueError(f"{path} has no function {function!r}")
    return found


@cache
def _module(path: Path, _changed: int) -> Any:
    """The file as a module, run once for each of its versions."""
    spec = importlib.util.spec_from_file_location(f"hpcdist_own_{xxhash.xxh32_hexdigest(bytes(path))}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their own
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{path} cannot be run: {_why(error, path)}") from error
    return module


def make(name: str, size: int, topology: Sequence[int] | None) -> Schedule:
    """The schedule of a name; it is of the right kind, but not proven.

    Raises: ValueError if there is none; says why.
    """
    base, _, digest = name.partition("@")
    if digest and name in _kept:
        found = _kept[name]
        if isinstance(found, ValueError):
            raise found
        return found
    function = function_of(base)
    try:
        takes = len(inspect.signature(function).parameters)
        schedule = function(size) if takes < 2 else function(size, topology)
    except Exception as error:
        code = inspect.unwrap(function)
        path = Path(inspect.getsourcefile(code) or "")
        raise ValueError(f"{base} for {size} ranks: {_why(error, path)}") from error
    schedule = replace(_checked(schedule, base, size), name=base)
    if digest and digest != digest_of(schedule):
        raise ValueError(
            f"{base} is not the algorithm that was meant: its digest is {digest_of(schedule)}, not {digest}"
        )
    return schedule


def settled(algorithm: Any, size: int, topology: Sequence[int] | None) -> str:
    """The name by which ranks agree on an algorithm: of the user's, with its digest; proven, or kept with the reason.

    Args:
        algorithm: a name, or a Schedule.
        size: ranks.
        topology: the node of each rank.
    """
    if not isinstance(algorithm, Schedule) and not is_own(str(algorithm)):
        return str(algorithm)
    given = isinstance(algorithm, Schedule)
    name = algorithm.name if given else str(algorithm)
    try:
        schedule = _checked(algorithm, name, size) if given else make(name, size, topology)
        name = f"{name.partition('@')[0]}@{digest_of(schedule)}"
        if not isinstance(_kept.get(name), Schedule):
            verify(schedule)
            _keep(name, schedule)
    except ValueError as error:
        name = name if "@" in name else f"{name}@none"
        _keep(name, error)
    return name


def _keep(name: str, found: Schedule | ValueError) -> None:
    if len(_kept) >= KEPT:
        del _kept[next(iter(_kept))]
    _kept[name] = found


def _checked(schedule: Any, name: str, size: int) -> Schedule:
    if not isinstance(schedule, Schedule):
        raise ValueError(f"{name} is to be a Schedule, and is {schedule!r:.60}")
    if schedule.size != size:
        raise ValueError(f"{name} is a schedule for {schedule.size} ranks, and here are {size}")
    if schedule.contract != ALLREDUCE or schedule.input_chunks:
        raise ValueError(f"{name} is a schedule of {schedule.contract.kind}, and here an all-reduce is asked for")
    return schedule


def digest_of(schedule: Schedule) -> str:
    """Of all transfers; the same on ranks that have the same schedule."""
    digest = xxhash.xxh64(f"{schedule.size} {schedule.chunks}".encode())
    for step in schedule.steps:
        rows = step.rows()
        digest.update(str(len(rows)).encode())
        for column in rows.columns:
            digest.update(column.tobytes())
    return digest.hexdigest()


def _why(error: Exception, path: Path) -> str:
    """An error in the user's file, with its line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path]
    where = f"{path}, line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}"
