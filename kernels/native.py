"""What compiled code needs beside numba: functions, and memory, by their addresses."""

from __future__ import annotations

import errno
import fcntl
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import xxhash
from llvmlite import ir
from numba import cfunc, njit, types
from numba import config as _config
from numba.extending import intrinsic as _intrinsic

from hpcdist.util.caches import user_cache

PACKAGE = Path(__file__).parents[1]
_IMPORT = re.compile(rf"^ *from ({PACKAGE.name}[\w.]*) import (\([^)]*\)|.*)", re.MULTILINE)

config: Any = _config  # whose names come from the environment
intrinsic: Any = _intrinsic  # what it makes is called with one argument less than it is written with


def compiled(signature: str | list[str]) -> Callable[[Callable], Any]:
    """Compile a function at once, for one signature or several, to run without the global interpreter lock."""
    return partial(_kept_on_disk, partial(njit, signature, nogil=True))


def entry_of(function: Any) -> Callable[..., Any]:
    """A compiled function as Python calls it soonest: without a look at the types of the arguments, which must fit."""
    (result,) = function.overloads.values()
    return result.entry_point


def loop(function: Callable) -> Any:
    """Compile a function at once to a C function in the form of NumPy's inner loops; see `loops`."""
    return _kept_on_disk(partial(cfunc, "void(int64, int64, int64, int64)"), function)


def entry(function: Callable) -> Any:
    """Compile a function at once to a C function of one 64-bit argument that returns an int, for `call`."""
    return _kept_on_disk(partial(cfunc, "int32(int64)"), function)


def c_function(function: Callable) -> Any:
    """Compile a function at once to a C function of three 64-bit arguments that returns an int, for `call`."""
    return _kept_on_disk(partial(cfunc, "int32(int64, int64, int64)"), function)


def _kept_on_disk(decorator: Callable, function: Callable) -> Any:
    """Compile for this start and the next; where the disk cannot be used, each start compiles anew."""
    try:
        name = f"{function.__module__}.{function.__qualname__}-{function.__code__.co_firstlineno}"
        with _in_folder(name, Path(function.__code__.co_filename)):
            return decorator(cache=True)(function)
    except OSError:  # no room, no quota, a file gone stale
        return decorator()(function)
    except RuntimeError as error:
        if "cannot cache" not in str(error):
            raise
        return decorator()(function)


@contextmanager
def _in_folder(name: str, source: Path) -> Iterator[None]:
    """Let Numba keep what it compiles in a folder that is for this very source and all that it imports.

    In its own place it would look at the function's file alone, not at those of what the function calls; and of ranks
    that start together after a change, some would take the old code as long as others have not replaced it. Of all
    processes of a host one compiles at a time, so that the others find it done. What is known to be done is loaded by
    all at once: if each waited for its turn, the last of many ranks would wait for all others.
    """
    before = config.CACHE_DIR
    folder = _folder(before, _digest(source))
    done = folder / f"{name}.done"
    with (folder / "lock").open("w") as lock:
        if not done.exists():
            with suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX)
        config.CACHE_DIR = str(folder)
        try:
            yield
            with suppress(OSError):
                done.touch()
        finally:
            config.CACHE_DIR = before


@cache
def _folder(chosen: str, digest: str) -> Path:
    """The first that can be written: in the one that NUMBA_CACHE_DIR has chosen, or beside the package, or the user's.

    Raises: OSError if none can.
    """
    name = f"compiled-{digest}"
    folders = [Path(chosen) / f"hpcdist-{name}"] if chosen else [PACKAGE / "__pycache__" / name]
    if not chosen:
        with suppress(OSError):  # of a user without a home
            folders.append(user_cache() / name)
    for folder in folders:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "lock").open("w").close()
            return folder
    raise OSError(errno.EACCES, "none of the folders for compiled code can be written", str(folders[-1]))


@cache
def _digest(source: Path) -> str:
    """Of a file and of all files of this package that it imports, directly or not: any may be in its code."""
    state = xxhash.xxh3_64()
    for path in sorted(_imported(source, set())):
        state.update(path.read_bytes())
    return state.hexdigest()


def _imported(source: Path, known: set[Path]) -> set[Path]:
    known.add(source)
    for module, names in _IMPORT.findall(source.read_text()):
        place = PACKAGE.parent.joinpath(*module.split("."))
        for path in (place, *(place / name for name in re.findall(r"\w+", names))):
            for file in (path.with_suffix(".py"), path / "__init__.py"):
                if file not in known and file.is_file():
                    _imported(file, known)
    return known


@intrinsic
def call(_context: Any, function: Any, arguments: Any) -> Any:
    """Call the C function at an address with a tuple of 64-bit arguments; the int it returns."""

    def generate(_context: Any, builder: Any, signature: Any, values: Any) -> Any:
        words = [builder.extract_value(values[1], i) for i in range(len(signature.args[1]))]
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(64)] * len(words))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), words)

    return types.int32(types.int64, arguments), generate


@intrinsic
def words_at(_context: Any, address: Any) -> Any:
    """The address as a pointer to 64-bit words."""
    return types.CPointer(types.int64)(types.int64), _to_pointer


@intrinsic
def float16s_at(_context: Any, address: Any) -> Any:
    """The address as a pointer to the bits of float16 numbers."""
    return types.CPointer(types.uint16)(types.int64), _to_pointer


@intrinsic
def bfloat16s_at(_context: Any, address: Any) -> Any:
    """The address as a pointer to the bits of bfloat16 numbers, of another type to tell them from float16."""
    return types.CPointer(types.int16)(types.int64), _to_pointer


def _to_pointer(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    return builder.inttoptr(values[0], context.get_value_type(signature.return_type))
