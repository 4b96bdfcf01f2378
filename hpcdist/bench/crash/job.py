"""The run that is killed: a small model, a checkpoint every few steps, in shards by several writers."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hpcdist.checkpoint.layout import digest
from hpcdist.checkpoint.reader import Checkpoint, committed, look, read

HPCDIST = (sys.executable, "-m", "hpcdist")
TRAIN = ("train", "--epochs", "40", "--batch", "128", "--seed", "5", "--model", "mlp")
STEPS, EVERY = 480, 8
KEEP = 3
PATIENCE = 120.0  # seconds, for a machine that is busy with other things

_RESUMED = re.compile(r"resumed from .* after (\d+) of \d+ steps")


class JobError(RuntimeError):
    """A run failed that nobody had killed."""


@dataclass(frozen=True)
class Job:
    """How training runs are started.

    Args:
        ranks: How many.
        writers: How many of them write a shard each.
        folder: For caches and what launchers leave behind.
        memory: For what killed ranks of Open MPI leave in shared memory; a folder that is memory.
    """

    ranks: int
    writers: int
    folder: Path
    memory: Path

    def start(self, out: Path, keep: int = KEEP) -> subprocess.Popen[bytes]:
        """Start, or resume, a run in the directory `out`; what it says is appended to output.txt there."""
        options = ["--checkpoint-every", str(EVERY), "--checkpoint-writers", str(self.writers), "--keep", str(keep)]
        train = [*HPCDIST, *TRAIN, *options, "--out", str(out), "--resume", "auto"]
        own = {
            "XDG_CACHE_HOME": str(self.folder),
            "TMPDIR": str(self.folder),
            "OMPI_MCA_btl_sm_backing_directory": str(self.memory),
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",  # what a start has said must be there when it is killed
        }
        out.mkdir(exist_ok=True)
        with open(out / "output.txt", "ab") as output:
            return subprocess.Popen(
                [*HPCDIST, "run", "-n", str(self.ranks), "--", *train],
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def finish(self, out: Path, keep: int = KEEP) -> None:
        """Start, or resume, a run, and wait until it is complete.

        Raises:
            JobError: it failed.
        """
        process = self.start(out, keep)
        try:
            code = process.wait(PATIENCE)
        finally:
            process.terminate()  # it ends its ranks; if it has ended, nothing happens
        if code or not (out / "summary.json").exists():
            raise JobError(f"a run ended with {code}:\n{said(out)}")


def said(out: Path) -> str:
    """What all starts of a run have said."""
    path = out / "output.txt"
    return path.read_text(errors="replace") if path.exists() else ""


def resumed_from(text: str) -> int | None:
    """The step from which a start that said `text` went on, None if it did not say."""
    found = _RESUMED.findall(text)
    return int(found[-1]) if found else None


def log(out: Path) -> list[dict[str, str]]:
    """Whole rows of the log, without the column that differs from run to run."""
    path = out / "log.csv"
    text = path.read_text() if path.exists() else ""
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    for row in rows:
        del row["seconds"]
    return rows


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """Digest of each array of a checkpoint, which is read and checked.

    Raises:
        DamagedCheckpoint: it is not whole.
    """
    return {name: digest(values) for name, values in read(checkpoint).items()}


@dataclass(frozen=True)
class Reference:
    """What a run that nobody killed leaves: its log, and the digests of each of its checkpoints by step."""

    log: list[dict[str, str]]
    digests: dict[int, dict[str, str]]

    @classmethod
    def of(cls, job: Job, out: Path) -> Reference:
        """Make the run."""
        job.finish(out, keep=STEPS)
        found = [look(path) for path in committed(out / "checkpoints")]
        return cls(log(out), {checkpoint.step: digests(checkpoint) for checkpoint in found})
