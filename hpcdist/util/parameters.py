"""Kinds of values on command lines that are told by a function, which raises ValueError where a text is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import click


class Parsed(click.ParamType):
    """A value that `read` makes of its text; what is no text, such as a default, is a value already."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self.read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read one value from the command line."""
        if not isinstance(value, str):
            return value
        try:
            return self.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Listed(Parsed):
    """A tuple of values that are separated by commas, each once; `read` makes one of them."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        super().__init__(name, lambda text: tuple(dict.fromkeys(read(each.strip()) for each in text.split(","))))


def options(*each: Callable) -> Callable[[Callable], Callable]:
    """A decorator that gives a command several options, in this order."""
    return lambda command: reduce(lambda made, option: option(made), reversed(each), command)
