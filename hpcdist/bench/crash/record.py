"""Results of trials: what was killed and found, and the report as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from msgspec import field

from hpcdist.bench import page, saved
from hpcdist.bench.crash.stage import STAGES
from hpcdist.bench.crash.victims import LAUNCHER, VICTIMS


class Trial(saved.Row):
    """One kill.

    Attributes:
        number: Of the trial; with the seed of all it chooses victim and moment.
        victim: One of VICTIMS.
        trigger: What was waited for before the kill.
        stage: What it interrupted; one of STAGES.
        logged: Steps in the log.
        committed: Steps of the committed checkpoints.
        resumed: Step from which the next start went on, 0 for the beginning; None if that was killed before it said so.
        unreadable: Committed checkpoints that could not be read, or did not fit their digests.
        different: Committed checkpoints that are not those of the uninterrupted run, bit for bit.
        log_differs: Whether a row of the log is not that of the uninterrupted run.
        orphans: Whether ranks were still running when all this was looked at.
    """

    number: int
    victim: str
    trigger: str
    stage: str
    logged: int
    committed: list[int]
    resumed: int | None = None
    unreadable: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    log_differs: bool = False
    orphans: bool = False

    @property
    def newest(self) -> int:
        """Step of the newest committed checkpoint, 0 if there is none."""
        return max(self.committed, default=0)

    @property
    def lost(self) -> int | None:
        """Steps that had to be taken again."""
        return None if self.resumed is None else max(0, self.logged - self.resumed)

    def problems(self) -> list[str]:
        """What must not be."""
        found = [f"unreadable: {what}" for what in self.unreadable]
        found += [f"not that of the uninterrupted run: {what}" for what in self.different]
        found += ["the log is not that of the uninterrupted run"] if self.log_differs else []
        # An orphan may have committed another one in between.
        wrong = self.resumed is not None and (
            self.resumed < self.newest if self.orphans else self.resumed != self.newest
        )
        found += [f"resumed from {self.resumed}, the newest was {self.newest}"] if wrong else []
        return [f"trial {self.number}, {self.victim}: {what}" for what in found]


class Part(saved.Part):
    """All trials.

    Attributes:
        rows: The trials.
        complete: Runs that were brought to their end, with the log and the checkpoints of the uninterrupted run.
    """

    rows: list[Trial] = field(default_factory=list)
    complete: int = 0


HEAD = ("killed", "trials", *STAGES, "unreadable", "resumed from the newest", "other bits", "steps lost, median (most)")


def text(report: saved.Report[Part], figures: Mapping[str, str]) -> str:
    """The report as Markdown."""
    body = [line for part in report.parts.values() for line in _lines(part)]
    return page.page("Killed at random, and resumed", report, body, "Nothing went wrong.")


def _lines(part: Part) -> Iterator[str]:
    config, trials = part.config, part.rows
    yield (
        f"{config['ranks']} ranks train with a checkpoint every {config['every']} steps, which {config['writers']} of "
        "them write in the background. They are killed with SIGKILL, resumed, and killed again. After each kill all "
        "committed checkpoints are read and compared with those of a run that nobody killed."
    )
    yield ""
    yield from page.rows(
        HEAD, [_row(name, [t for t in trials if name in (t.victim, "all")]) for name in (*VICTIMS, "all")]
    )
    yield (
        f"{part.complete} runs were complete in the end, with the log of the uninterrupted run in every row and its "
        "checkpoints in every bit."
    )
    if len(trials) < config["trials"]:
        yield f"It ended after {len(trials)} of {config['trials']} trials."
    orphans = sum(trial.orphans for trial in trials if trial.victim == LAUNCHER)
    yield f"In {orphans} trials the ranks of a killed launcher were still at work when the next start took over."
    yield ""


def _row(name: str, trials: Sequence[Trial]) -> list[str]:
    stages = Counter(trial.stage for trial in trials)
    seen = [trial for trial in trials if trial.resumed is not None]
    good = sum(not any("resumed" in problem for problem in trial.problems()) for trial in seen)
    lost = [trial.lost for trial in seen if trial.lost is not None]
    return [
        name,
        str(len(trials)),
        *(str(stages[each]) for each in STAGES),
        str(sum(len(trial.unreadable) for trial in trials)),
        f"{good} of {len(seen)}",
        str(sum(len(trial.different) + trial.log_differs for trial in trials)),
        f"{np.median(lost):.0f} ({max(lost)})" if lost else "-",
    ]
