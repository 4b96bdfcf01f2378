"""What a run leaves in its directory: settings, log, figure, and last the summary, which means success.

Or, if it was asked to stop and has written a checkpoint, a note of that.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI
from rich.console import Console

from hpcdist._version import __version__
from hpcdist.checkpoint import Fence
from hpcdist.train.config import Config
from hpcdist.train.log import Log, Row, read
from hpcdist.train.progress import Display
from hpcdist.util import typed_json
from hpcdist.util.atomic_files import drafts_of, write_text

LOG, SETTINGS, FIGURE, SUMMARY, STOPPED = "log.csv", "config.toml", "training.png", "summary.json", "stopped.json"


class Results:
    """The results directory of a run, and its display; used on rank 0.

    Args:
        config: The effective settings.
        fence: The run's claim; a run that has lost it writes no summary.
        console: Where progress is shown.
        done: Steps done before this start.
        total: Steps of the whole run.

    Attributes:
        log: A row for each step.
    """

    def __init__(self, config: Config, fence: Fence, console: Console, done: int, total: int) -> None:
        self.directory = Path(config.out)
        self._fence = fence
        self._done = done
        with fence.held():
            for end in (SUMMARY, STOPPED):  # an earlier run's end is not ours
                (self.directory / end).unlink(missing_ok=True)
            for name in (LOG, SETTINGS, FIGURE, SUMMARY, STOPPED):
                for draft in drafts_of(self.directory / name):  # of starts that were killed
                    draft.unlink(missing_ok=True)
            write_text(self.directory / SETTINGS, config.to_toml())
            self.log = Log(self.directory / LOG, done)
        self._display = Display(console, total, done)
        self._notes: deque[str] = deque(maxlen=100)

    def add(self, row: Row) -> None:
        """Log and show a step."""
        self.log.append(row)
        self._display.show(row)

    def note(self, text: str) -> None:
        """Say what there is to know, and keep it for the summary, which has the last hundred."""
        self._notes.append(text)
        self._display.note(text)

    def close(self) -> None:
        """Close the log and take the progress bar away."""
        self._display.close()
        self.log.close()

    def stop(self, outcome: dict[str, Any]) -> None:
        """Note that the run ended before its time, with a checkpoint: job scripts run it again then."""
        with self._fence.held():
            write_text(self.directory / STOPPED, typed_json.text(outcome, None))

    def finish(self, outcome: dict[str, Any], facts: dict[str, Any], steps_per_epoch: int) -> None:
        """Write the summary, then draw the figure; if that fails, it is noted.

        Args:
            outcome: Final numbers.
            facts: What a last checkpoint would hold, the settings among them.
            steps_per_epoch: For the axis of the figure.
        """
        self.log.sync()
        rows = read(self.directory / LOG)
        settings, how = facts["configuration"], facts["execution"]
        title = f"{settings['model']} on {settings['data']}: {how['ranks']} ranks, {how['algorithm']}"
        summary = {
            **outcome,
            "resumed_from": self._done,
            "train_seconds": sum(row.seconds for row in rows),
            **{name: facts[name] for name in ("configuration", "execution", "data")},
            "versions": versions(),
            "notes": list(self._notes),
            "epochs": [asdict(row) for row in rows if row.test_loss is not None],
        }
        self._summarise(summary)
        try:
            from hpcdist.train.figure import draw  # Matplotlib has many files; let it not be loaded by every rank

            draw(rows, self.directory / FIGURE, title=title, steps_per_epoch=steps_per_epoch)
        except Exception as error:
            self.note(f"{self.directory / FIGURE} could not be drawn: {type(error).__name__}: {error}")
            self._summarise({**summary, "notes": list(self._notes)})

    def _summarise(self, summary: dict[str, Any]) -> None:
        with self._fence.held():
            write_text(self.directory / SUMMARY, typed_json.text(summary))


def versions() -> dict[str, str]:
    """Releases on which the bits of a run may depend."""
    library = MPI.Get_library_version().rstrip("\0").split("\n")[0].split(",")[0]
    return {"hpcdist": __version__, "numpy": np.__version__, "h5py": h5py.__version__, "mpi": library}
