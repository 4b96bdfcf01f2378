"""How far a command has read, on a terminal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

Advance = Callable[[int], None]  # told of bytes done


class Bar(Progress):
    """A bar on stderr while its block runs, if that is a terminal.

    Attributes:
        told: Takes bytes that are done.
    """

    def __init__(self, what: str, nbytes: int) -> None:
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        super().__init__(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.told: Advance = partial(self.advance, self.add_task(what, total=nbytes))

    def stop(self) -> None:
        """Take it away."""
        if not self.disable:  # or some releases of rich would print an empty line
            super().stop()

    def say(self, text: str) -> None:
        """Print a line on stdout, with the bar out of its way."""
        self.stop()
        click.echo(text)
        self.start()
