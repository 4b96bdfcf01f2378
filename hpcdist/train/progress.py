"""What rank 0 shows while it trains: a line per epoch, and below them a bar if there is a terminal."""

from __future__ import annotations

import os

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hpcdist.train.log import Row


def watched(console: Console) -> bool:
    """Whether there is a screen: mpirun gives rank 0 a terminal in any case, but else one of no size."""
    return console.is_terminal and os.get_terminal_size(console.file.fileno()).columns > 0


class Display:
    """Progress on a console; a quiet console shows nothing."""

    def __init__(self, console: Console, total: int, done: int) -> None:
        columns = (TextColumn("step"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
        loss = TextColumn("loss {task.fields[loss]}")
        self._bar = Progress(*columns, loss, console=console, disable=not watched(console), transient=True)
        self._task = self._bar.add_task("", total=total, completed=done, loss="")
        self._console = console
        self._bar.start()

    def show(self, row: Row) -> None:
        """Show a step."""
        self._bar.update(self._task, completed=row.step, loss=f"{row.loss:.4f}")
        if row.test_accuracy is not None:
            self._console.print(
                f"epoch {row.epoch:3d}  step {row.step:6d}  loss {row.loss:.4f}  "
                f"test loss {row.test_loss:.4f}  test accuracy {100 * row.test_accuracy:.2f} %",
                highlight=False,
                soft_wrap=True,
            )

    def note(self, text: str) -> None:
        """Say what there is to know."""
        self._console.print(f"note: {text}", highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.stop()
