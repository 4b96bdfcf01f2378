"""How far a command has read, on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Advance = Callable[[int], None]  # told of bytes done


class Bar:
    """A bar on stderr, if that is a terminal."""

    def __init__(self, what: str, nbytes: int) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        self._shown = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._shown.add_task(what, total=nbytes)

    def advance(self, nbytes: int) -> None:
        """Tell of bytes done."""
        self._shown.update(self._task, advance=nbytes)

    def say(self, text: str) -> None:
        """Print a line on stdout, with the bar out of its way."""
        self.hide()
        click.echo(text)
        self.show()

    def show(self) -> None:
        """Begin to show it."""
        if not self._shown.disable:
            self._shown.start()

    def hide(self) -> None:
        """Take it away."""
        if not self._shown.disable:
            self._shown.stop()


@contextmanager
def bar(what: str, nbytes: int) -> Iterator[Bar]:
    """Show a bar until the block ends."""
    shown = Bar(what, nbytes)
    shown.show()
    try:
        yield shown
    finally:
        shown.hide()
