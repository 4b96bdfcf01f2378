"""Two commits of ours beside each other: their jobs in turn, on this machine and on virtual hosts."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import click

from hpcdist.bench.addresses import LEAST_ROUNDS
from hpcdist.bench.compare import groups
from hpcdist.bench.node import fitting
from hpcdist.bench.peers import NEW, OLD, Peer
from hpcdist.bench.processes import last_words
from hpcdist.bench.record import Report
from hpcdist.bench.rounds import Asked, Rounds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Here, Place
from hpcdist.bench.task import AUTO, Link, Task
from hpcdist.cluster import plan

PART, AGAIN = "commits", "commits again"
SECONDS = 300.0
MOST_ON_HOSTS = 16 << 20  # bytes
HERE, ON_HOSTS = (AUTO,), (AUTO, "ring")  # cases
LEAST, MOST, ITERATIONS, CASE_SECONDS = 3, 101, 50, 0.5
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Options:
    """What to measure, where, and for how long; one field per option."""

    old: str
    sizes: tuple[int, ...]
    numbers: tuple[int, ...]
    hosts: tuple[int, ...]
    rate: int
    rounds: int
    seconds: float
    name: str


def measure(draft: Draft, options: Options) -> None:
    """Every number of ranks of this machine, then a cluster for every number of hosts."""
    with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
        both = commits(options.old, Path(folder))
        for name in (AGAIN, PART):
            draft.start(name, both, asdict(options))
        part = draft.report.parts[PART]
        for ranks in filter(None, options.numbers):
            _measure(draft, both, ranks, options, fitting(part, options.sizes, ranks), HERE, None, Here())
        sizes = tuple(size for size in options.sizes if size <= MOST_ON_HOSTS)
        for ranks in filter(None, options.hosts):
            measure = partial(_measure, draft, both, ranks, options, sizes, ON_HOSTS, Link(options.rate))
            draft.on_hosts(part, plan.network(ranks, options.rate), options.name, measure)


def commits(old: str, folder: Path) -> list[Peer]:
    """The package as git has it and a copy of the one at hand, which may change meanwhile, each in a folder.

    Raises: click.ClickException if git has no such commit.
    """
    commit = _git("rev-parse", "--short", "--verify", "--end-of-options", f"{old}^{{commit}}").decode().strip()
    with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as archive:
        archive.extractall(folder / OLD, filter="data")
    shutil.copytree(ROOT / "hpcdist", folder / NEW / "hpcdist", ignore=shutil.ignore_patterns("__pycache__"))
    versions = {OLD: commit, NEW: _git("describe", "--always", "--dirty", "--exclude=*").decode().strip()}
    return [Peer(name, Path(sys.executable), words, folder / name) for name, words in versions.items()]


def _git(*words: str) -> bytes:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        raise click.ClickException(last_words(done.stderr.decode()))
    return done.stdout


def _measure(
    draft: Draft,
    both: list[Peer],
    ranks: int,
    options: Options,
    sizes: tuple[int, ...],
    cases: tuple[str, ...],
    link: Link | None,
    place: Place,
) -> None:
    """All rounds at a place, and once more those of sizes at which the new commit is slower."""
    asked = Asked(PART, ranks, options.rounds, min(LEAST_ROUNDS, options.rounds), options.seconds, ())
    task = Task(sizes, (), "", CASE_SECONDS, LEAST, MOST, ITERATIONS, 0, 0, link)
    parts = draft.report.parts
    Rounds(draft.report, parts[PART], draft.write, place, both, asked, task, lambda peer: cases).run()
    found = (group for group in groups(draft.report.rows, PART) if (group.place, group.ranks) == (place.name, ranks))
    slower = tuple(point.nbytes for group in found for point in group.points if point.slower)
    asked = replace(asked, part=AGAIN, seconds=options.seconds * len(slower) / max(1, len(sizes)))
    task = replace(task, sizes=slower)
    Rounds(draft.report, parts[AGAIN], draft.write, place, both, asked, task, lambda peer: cases).run()


def slower(report: Report) -> bool:
    """Whether the new commit is slower anywhere; where it was measured once more, that counts."""
    every = [(group, point) for part in (PART, AGAIN) for group in groups(report.rows, part) for point in group.points]
    return any({(group.place, group.ranks, point.nbytes): point.slower for group, point in every}.values())
