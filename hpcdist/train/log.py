"""The log of a run: a CSV file with a row per step, as if the run had never been interrupted."""

from __future__ import annotations

import csv
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import takewhile
from pathlib import Path

from hpcdist.util.atomic_files import replacing


@dataclass(frozen=True)
class Row:
    """What is known after a step. Losses are means in nats; floats are written to be read back bit for bit.

    Attributes:
        step: Steps done, from 1.
        epoch: Epoch the step belongs to, from 1.
        loss: Mean over the batch, before the step.
        accuracy: Share of the batch that was classified right, before the step.
        learning_rate: As used in the step.
        seconds: Wall time of the step, evaluation and checkpoint not included.
        test_loss: Mean over the test set, after the last step of an epoch only.
        test_accuracy: Likewise.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float
    test_loss: float | None = None
    test_accuracy: float | None = None


COLUMNS = [item.name for item in fields(Row)]


def read(path: Path, last: int | None = None) -> list[Row]:
    """Rows of the log `path` up to step `last`; a log that is not there has none.

    What follows that step is not looked at, and neither is a last line without its end: a crash may have torn
    it.
    """
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    rows = map(_row, csv.DictReader(whole.splitlines()))
    return list(takewhile(lambda row: last is None or row.step <= last, rows))


def _row(cells: dict[str, str]) -> Row:
    numbers = {name: float(cells[name]) if cells[name] else None for name in COLUMNS[2:]}
    return Row(int(cells["step"]), int(cells["epoch"]), **numbers)  # type: ignore[arg-type]


class Log:
    """The log, open for appending.

    The file is begun anew, with the earlier rows up to step `done`, rather than cut: a rank of a killed run
    that still has the old file open cannot write into ours.
    """

    def __init__(self, path: Path, done: int) -> None:
        earlier = read(path, done)
        with replacing(path) as draft, open(draft, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(COLUMNS)
            csv.writer(file).writerows(_cells(row) for row in earlier)
        self._file = open(path, "a", newline="", encoding="utf-8", buffering=1)  # noqa: SIM115, kept open
        self._writer = csv.writer(self._file)
        self._trouble: OSError | None = None

    @property
    def failed(self) -> bool:
        """Whether a row could not be written; `sync` then raises why."""
        return self._trouble is not None

    def append(self, row: Row) -> None:
        """Write a row. If that fails, no more are written, as a log with a gap would be worse than a short one."""
        if self.failed:
            return
        try:
            self._writer.writerow(_cells(row))
        except OSError as error:
            self._trouble = OSError(error.errno, error.strerror, self._file.name)

    def sync(self) -> None:
        """Make all rows durable; a checkpoint must not be newer than the log.

        Raises:
            OSError: a row could not be written, now or earlier.
        """
        if self._trouble:
            raise self._trouble
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; what was worth it has been made durable by `sync`, so trouble is no news."""
        with suppress(OSError):
            self._file.close()


def _cells(row: Row) -> list[str]:
    """repr() is the shortest text from which a float comes back bit for bit."""
    return ["" if value is None else repr(value) for value in asdict(row).values()]
