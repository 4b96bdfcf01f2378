"""The MPI library's control variables, which it reads and lets set while it runs; mpi4py has no binding for MPI_T."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ctypes import byref, c_int, c_void_p, create_string_buffer
from functools import cache

from mpi4py import MPI

TEXT = 1 << 14  # bytes of the longest description


@cache
def _library() -> ctypes.CDLL:
    """The library that mpi4py has loaded, its MPI_T interface started."""
    loaded = ctypes.CDLL(MPI.__file__)  # names are looked for in what it was linked with
    # Open MPI takes the level of threads that is asked for here for that of all of MPI from then on: at a lower one it
    # would leave out the locks that other threads count on.
    _check(loaded.MPI_T_init_thread(MPI.Query_thread(), byref(c_int())), "MPI_T_init_thread")
    return loaded


def _check(code: int, what: str) -> None:
    if code != MPI.SUCCESS:
        raise OSError(f"{what}: the MPI library answers with error {code}")


class Control:
    """A control variable that holds an integer, alike on all ranks if all of them set it.

    Args:
        name: as the library calls it.

    Raises:
        LookupError: if the library has none of that name, or offers no MPI_T.
    """

    def __init__(self, name: str):
        self.name, index, handle = name, c_int(), c_void_p()
        try:
            found = _library().MPI_T_cvar_get_index(name.encode(), byref(index)) == MPI.SUCCESS
        except AttributeError:
            raise LookupError("this MPI library has no MPI_T interface that can be reached by name") from None
        if not found:
            raise LookupError(f"this MPI library has no control variable {name}")
        self.length = c_int()
        code = _library().MPI_T_cvar_handle_alloc(index, None, byref(handle), byref(self.length))
        _check(code, name)
        self.handle = handle
        self._describe(index)

    def _describe(self, index: c_int) -> None:
        name, text = create_string_buffer(TEXT), create_string_buffer(TEXT)
        self._enumeration = c_void_p()
        code = _library().MPI_T_cvar_get_info(
            index, name, byref(c_int(TEXT)), byref(c_int()), byref(c_void_p()), byref(self._enumeration),
            text, byref(c_int(TEXT)), byref(c_int()), byref(c_int()),
        )  # fmt: skip
        _check(code, self.name)
        self.description = text.value.decode(errors="replace")

    @property
    def value(self) -> int:
        """What it is now."""
        room = (c_int * 2)()  # a library may store a boolean, or more than an int
        _check(_library().MPI_T_cvar_read(self.handle, room), self.name)
        return room[0]

    @value.setter
    def value(self, value: int) -> None:
        _check(_library().MPI_T_cvar_write(self.handle, (c_int * 2)(value)), self.name)

    @property
    def text(self) -> str:
        """What it is now, of a variable that holds a text."""
        room = create_string_buffer(max(TEXT, self.length.value))
        _check(_library().MPI_T_cvar_read(self.handle, room), self.name)
        return room.value.decode(errors="replace")

    def labels(self) -> dict[str, int]:
        """The names of its values, where the library gives it an enumeration; empty if not."""
        if not self._enumeration.value:
            return {}
        count, room = c_int(), create_string_buffer(TEXT)
        _check(_library().MPI_T_enum_get_info(self._enumeration, byref(count), room, byref(c_int(TEXT))), self.name)
        found = {}
        for number in range(count.value):
            value = c_int()
            code = _library().MPI_T_enum_get_item(self._enumeration, number, byref(value), room, byref(c_int(TEXT)))
            _check(code, self.name)
            found[room.value.decode()] = value.value
        return found


def value_of(name: str) -> int | None:
    """What a control variable is now; None in an MPI of another make, or one that does not tell."""
    try:
        return Control(name).value
    except (LookupError, OSError):
        return None


def text_of(name: str) -> str | None:
    """What a control variable that holds a text is now, empty if it is not set; None likewise."""
    try:
        return Control(name).text
    except (LookupError, OSError):
        return None


@contextmanager
def setting(values: Mapping[Control, int]) -> Iterator[None]:
    """A context in which control variables have these values."""
    before = {control: control.value for control in values}
    try:
        for control, value in values.items():
            control.value = value
        yield
    finally:
        for control, value in before.items():
            control.value = value
