"""A run that is killed and resumed until it is complete."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from hpcdist.bench.crash import victims
from hpcdist.bench.crash.job import KEEP, STEPS, Job, Reference, digests, log, resumed_from, said
from hpcdist.bench.crash.record import Part, Trial
from hpcdist.bench.crash.trial import FARTHEST, Attempt, Choice, Missed, examine
from hpcdist.checkpoint.reader import DamagedCheckpoint, committed, look


class Chain:
    """A run in the directory `out`; its trials are added to the part."""

    def __init__(self, job: Job, reference: Reference, out: Path, part: Part) -> None:
        self.job, self.reference, self.out, self.part = job, reference, out, part
        self._orphans: list[Attempt] = []

    def run(self, numbers: range, seed: int) -> int:
        """Trials of these numbers until the run is nearly complete, or they are done; returns how many.

        Raises:
            JobError: a run failed that nobody had killed.
        """
        done = 0
        while done < len(numbers) and len(log(self.out)) < STEPS - FARTHEST:
            try:
                self._trial(numbers[done], random.Random(f"{seed} {numbers[done]}"))
            except Missed:
                break
            done += 1
        said_before = len(said(self.out))
        self.job.finish(self.out)
        self._note_resumed(said(self.out)[said_before:], started=True)
        self._check_end()
        return done

    def _trial(self, number: int, chance: random.Random) -> None:
        choice = Choice.of(number, chance)
        before = len(said(self.out))
        attempt = Attempt(self.job.start(self.out), self.out, len(log(self.out)))
        try:
            attempt.kill(choice, chance)
        finally:
            self._end(attempt, choice)
            words = said(self.out)[before:]
            self._note_resumed(words, started="parameters on" in words)
        self.part.rows.append(examine(number, choice, attempt, self.reference))

    def _end(self, attempt: Attempt, choice: Choice) -> None:
        """Wait for the ranks to end; those without a launcher may still be at work when the next start comes."""
        attempt.stop()
        if choice.victim == victims.LAUNCHER:
            self._orphans.append(attempt)
        elif attempt.wait_for_end():
            self.part.wrong.append(f"ranks were still there long after their job: {choice.victim} was killed")

    def _note_resumed(self, words: str, started: bool) -> None:
        """Note for the trial before where this start went on, if it came so far that it said so."""
        before: Trial | None = self.part.rows[-1] if self.part.rows else None
        if before and before.resumed is None:
            step = resumed_from(words)
            before.resumed = 0 if step is None and started else step

    def _check_end(self) -> None:
        """See that the end is as if nothing had happened."""
        wrong = []
        for attempt in self._orphans:
            wrong += ["ranks outlived their launcher"] if attempt.wait_for_end() else []
        if log(self.out) != self.reference.log:
            wrong.append("the log of a complete run is not that of the uninterrupted one")
        wrong += self._wrong_checkpoints()
        self.part.wrong += wrong
        self.part.complete += not wrong
        shutil.rmtree(self.out)

    def _wrong_checkpoints(self) -> list[str]:
        directory = self.out / "checkpoints"
        found = committed(directory)
        wrong = [f"{path.name} was found damaged" for path in directory.glob("*.damaged-*")]
        for path in found:
            try:
                same = digests(look(path)) == self.reference.digests.get(look(path).step)
                wrong += [] if same else [f"{path.name} is not that of the uninterrupted run"]
            except DamagedCheckpoint as error:
                wrong.append(str(error))
        last = sorted(self.reference.digests)[-KEEP:]
        if [int(path.name.removeprefix("step-")) for path in found] != last:
            wrong.append(f"checkpoints {[path.name for path in found]} of a complete run are not {last}")
        return wrong


def run(part: Part, job: Job, written: Callable[[], None] = lambda: None) -> None:
    """Carry out the trials that the config of a part asks for.

    Args:
        part: Where they are added.
        job: What to kill.
        written: Called after each run that was brought to its end.

    Raises:
        JobError: a run failed that nobody had killed.
    """
    began = monotonic()
    trials, number = part.config["trials"], 0
    try:
        reference = Reference.of(job, job.folder / "uninterrupted")
        while len(part.rows) < trials:
            chain = Chain(job, reference, job.folder / f"run-{number}", part)
            chain.run(range(len(part.rows), trials), part.config["seed"])
            number += 1
            part.seconds = monotonic() - began
            written()
    finally:
        part.seconds = monotonic() - began
