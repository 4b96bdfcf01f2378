"""One trial: wait for a moment, kill, and look at what is there."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import psutil

from hpcdist.bench.crash import victims
from hpcdist.bench.crash.job import EVERY, PATIENCE, STEPS, JobError, Reference, digests, log, said
from hpcdist.bench.crash.record import Trial
from hpcdist.bench.crash.stage import DRAFTS, leftovers, stage
from hpcdist.checkpoint.reader import DamagedCheckpoint, committed, look

T = TypeVar("T")

START, STEP, DRAFT, COMMIT = "starting", "a step", "a draft", "a commit"  # what is waited for
WEIGHTS = {START: 1, STEP: 3, DRAFT: 5, COMMIT: 2}
STARTING = 2.0  # seconds from the start, at most
SAVING = 0.04  # seconds from the appearance of a draft, at most
REMOVING = 0.002  # seconds from a commit, at most
FARTHEST = 5 * EVERY  # steps between two kills, at most
SOON = 20.0  # seconds in which ranks without a launcher must have ended
GLANCE = 0.0005  # seconds between two looks


@dataclass(frozen=True)
class Choice:
    """What the numbers of a trial have chosen."""

    victim: str
    trigger: str
    steps: int
    delay: float

    @classmethod
    def of(cls, number: int, chance: random.Random) -> Choice:
        """Victims come in turn, moments at random."""
        victim = victims.VICTIMS[number % len(victims.VICTIMS)]
        trigger = DRAFT if victim == victims.WRITER else chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        most = {START: STARTING, STEP: 0.01, DRAFT: SAVING, COMMIT: REMOVING}[trigger]
        return cls(victim, trigger, chance.randrange(1, FARTHEST), chance.uniform(0, most))


class Missed(Exception):
    """The run was complete before it could be killed."""


class Attempt:
    """A run that has been started to be killed."""

    def __init__(self, process: subprocess.Popen[bytes], out: Path, done: int) -> None:
        self.process, self.out, self.done = process, out, done
        self.launcher = psutil.Process(process.pid)
        self.members: list[psutil.Process] = []

    def kill(self, choice: Choice, chance: random.Random) -> None:
        """Wait for the moment that was chosen, kill, and wait for the launcher's end.

        Raises:
            Missed: it came too late.
            JobError: the run failed before.
        """
        self._reach(choice)
        # now, as what comes next must be followed by the kill at once
        self.members = self._until(lambda: victims.ranks(self.launcher))
        writer = self._moment(choice)
        victims.kill(choice.victim, self.launcher, self.members, writer, chance)
        self.process.wait(PATIENCE)
        if self.process.returncode == 0:
            raise Missed

    def _reach(self, choice: Choice) -> None:
        """Wait for the time, or the step, that was chosen."""
        if choice.trigger == START:
            time.sleep(choice.delay)
        else:
            goal = min(self.done + choice.steps, STEPS - 1)
            self._until(lambda: _rows(self.out) >= goal)

    def _moment(self, choice: Choice) -> psutil.Process | None:
        """Wait for what the kill is to follow; returns the writer if that is to be killed."""
        directory = self.out / "checkpoints"
        if choice.victim == victims.WRITER:
            return self._until(lambda: victims.writing(self.members, directory))
        if choice.trigger == DRAFT:
            self._until(lambda: any(directory.glob(DRAFTS)))
        elif choice.trigger == COMMIT:
            before = set(committed(directory))
            self._until(lambda: set(committed(directory)) - before)
        if choice.trigger != START:
            time.sleep(choice.delay)
        return None

    def _until(self, look: Callable[[], T]) -> T:
        """Look until something is there, and return it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := look()):
            if self.process.poll() == 0:
                raise Missed
            if self.process.returncode is not None or time.monotonic() > deadline:
                raise JobError(f"a run failed before it was killed:\n{said(self.out)}")
            time.sleep(GLANCE)
        return found

    def stop(self) -> None:
        """Kill what is left of the job if its launcher lives: it failed to go on, or we are to end ourselves."""
        if self.process.poll() is None:
            victims.kill(victims.JOB, self.launcher, victims.ranks(self.launcher), None, random.Random())
            self.process.wait(PATIENCE)

    def ended(self) -> bool:
        """Whether all ranks are gone."""
        return not any(map(psutil.Process.is_running, self.members))

    def wait_for_end(self) -> list[psutil.Process]:
        """Wait until all ranks are gone; returns those that have to be killed."""
        _, alive = psutil.wait_procs(self.members, timeout=SOON)
        for process in alive:
            process.kill()
        return alive


def _rows(out: Path) -> int:
    """Steps in the log, cheaply."""
    path = out / "log.csv"
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def examine(number: int, choice: Choice, attempt: Attempt, reference: Reference) -> Trial:
    """Look at what a kill has left."""
    directory = attempt.out / "checkpoints"
    orphans = not attempt.ended()
    rows, drafts, paths = log(attempt.out), leftovers(directory), committed(directory)
    steps = [int(path.name.removeprefix("step-")) for path in paths]
    under_way = stage(drafts, max(steps, default=0))
    trial = Trial(number, choice.victim, choice.trigger, under_way, len(rows), steps, orphans=orphans)
    trial.log_differs = rows != reference.log[: len(rows)]
    for path in paths:
        _compare(path, reference, trial)
    return trial


def _compare(path: Path, reference: Reference, trial: Trial) -> None:
    """Read a committed checkpoint and note what is wrong with it."""
    try:
        checkpoint = look(path)
        if digests(checkpoint) != reference.digests.get(checkpoint.step):
            trial.different.append(path.name)
    except (DamagedCheckpoint, FileNotFoundError) as error:
        if path.exists() or not trial.orphans:  # an orphan may have removed an old one meanwhile
            trial.unreadable.append(str(error))
