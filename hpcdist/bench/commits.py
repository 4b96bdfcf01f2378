"""Two commits of ours beside each other: their jobs in turn, on this machine and on virtual hosts."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from hpcdist.bench import options
from hpcdist.bench.addresses import SIZES
from hpcdist.bench.beside import KIND, begin
from hpcdist.bench.compare import groups
from hpcdist.bench.draft import Draft
from hpcdist.bench.node import fitting
from hpcdist.bench.peers import NEW, OLD, Peer
from hpcdist.bench.processes import last_words
from hpcdist.bench.record import AGAIN, COMMITS, Part
from hpcdist.bench.rounds import AT_LEAST, LEAST_ROUNDS, Asked, Rounds
from hpcdist.bench.start import Here, Place
from hpcdist.bench.task import AUTO, Link, Samples, Task
from hpcdist.cluster import plan

PART = COMMITS
SECONDS = 300.0
MOST_ON_HOSTS = 16 << 20  # bytes
HERE, ON_HOSTS = (AUTO,), (AUTO, "ring")  # cases
CASE_SECONDS, SAMPLES = 0.5, Samples(3, 101, 50, 0)
ROOT = Path(__file__).parents[2]


def measure(
    draft: Draft[Part],
    old: str,
    sizes: tuple[int, ...],
    ranks: tuple[int, ...],
    hosts: tuple[int, ...],
    rate: int,
    rounds: int,
    seconds: float,
    name: str,
) -> None:
    """Every number of ranks of this machine, then a cluster for every number of hosts."""
    with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
        both = commits(old, Path(folder))
        parts = [begin(draft, each, both) for each in (AGAIN, PART)]
        asked = Asked(PART, 0, rounds, min(LEAST_ROUNDS, rounds), seconds, ())
        task = Task(sizes, (), "", CASE_SECONDS, *SAMPLES, 0)
        for count in filter(None, ranks):
            some = replace(task, sizes=fitting(parts[1], sizes, count))
            _measure(draft, both, replace(asked, ranks=count), some, HERE, Here())
        small = tuple(size for size in sizes if size <= MOST_ON_HOSTS)
        for count in filter(None, hosts):
            some = replace(task, sizes=small, link=Link(rate))
            measure = partial(_measure, draft, both, replace(asked, ranks=count), some, ON_HOSTS)
            draft.on_hosts(parts[1], plan.network(count, rate), name, measure)


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
    draft: Draft[Part], both: list[Peer], asked: Asked, task: Task, cases: tuple[str, ...], place: Place
) -> None:
    """All rounds at a place, and once more those of sizes at which the new commit is slower."""
    parts = draft.report.parts
    Rounds(draft, parts[PART], place, both, asked, task, lambda peer: cases).run()
    found = (
        group for group in groups(parts[PART].rows, PART) if (group.place, group.ranks) == (place.name, asked.ranks)
    )
    slower = tuple(point.nbytes for group in found for point in group.points if point.slower)
    asked = replace(asked, part=AGAIN, seconds=asked.seconds * len(slower) / max(1, len(task.sizes)))
    task = replace(task, sizes=slower)
    Rounds(draft, parts[AGAIN], place, both, asked, task, lambda peer: cases).run()


command = options.verb(
    KIND,
    PART,
    "Two commits of this package in turn, on this machine and on virtual hosts, whose sizes end at 16 MiB.",
    measure,
    click.option("--old", required=True, help="The commit to stand beside; the new one is the code at hand."),
    options.sizes(SIZES),
    options.numbers("--ranks", "2,4", "Of this machine; 0 for none.", none=True),
    options.numbers("--hosts", "5,8", "Virtual; 0 for none.", none=True),
    options.ONE_RATE,
    options.rounds(11, AT_LEAST),
    options.seconds(SECONDS, "About so long for each number of ranks or hosts, and again for sizes that are slower."),
    options.NAME,
)
