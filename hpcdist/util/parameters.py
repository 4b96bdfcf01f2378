"""What commands have in common: values that a function reads from a text, several options at once, and errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
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


def reported(*kinds: type[Exception], words: Callable[[Any], str] = str) -> Callable[[Callable], Callable]:
    """A decorator that turns errors of these kinds into one line and exit code 1; a bad value into exit code 2."""

    def decorated(function: Callable) -> Callable:
        @wraps(function)
        def wrapped(*arguments: Any, **given: Any) -> Any:
            try:
                return function(*arguments, **given)
            except BrokenPipeError:
                raise  # whoever read the output has seen enough; click ends quietly
            except kinds as error:
                raise click.ClickException(words(error)) from None
            except ValueError as error:
                raise click.UsageError(str(error)) from None

        return wrapped

    return decorated
