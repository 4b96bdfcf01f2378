"""Ranks of one machine: ours on ordinary and on registered arrays, the library's own, a copy; all libraries in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from hpcdist.bench import tuning
from hpcdist.bench.peers import NAMES, Peer
from hpcdist.bench.record import Part
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.settings import Draft
from hpcdist.bench.start import Here
from hpcdist.bench.task import AUTO, CALL, COPY, LIBRARY, REGISTERED, Task
from hpcdist.util.cgroups import available_memory
from hpcdist.util.sizes import format_bytes

PART = "node"
SIZES = "8,32,128,512,2KiB,8KiB,32KiB,64KiB,128KiB,512KiB,2MiB,8MiB,32MiB,128MiB,256MiB"
OURS = (LIBRARY, AUTO, REGISTERED, CALL, COPY)
THEIRS = (LIBRARY, COPY)
PAIRS = (
    (AUTO, LIBRARY),
    (REGISTERED, LIBRARY),
    (CALL, LIBRARY),
    (REGISTERED, COPY),
    (REGISTERED, AUTO),
    (CALL, AUTO),
    (AUTO, COPY),
)
LEAST, MOST, ITERATIONS, WARMUP = 3, 21, 50, 2
SHARED_MEMORY = Path("/dev/shm")  # where registered arrays lie
ARRAYS = 6  # of a rank: three of its own, what plans receive into, and what a library may keep
FEWER = 2  # times as few rounds of all numbers of ranks but the first


@dataclass(frozen=True)
class Options:
    """What to measure, and for how long; one field per option."""

    sizes: tuple[int, ...]
    numbers: tuple[int, ...]
    rounds: int
    seconds: float
    tune: bool


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs."""
    return OURS if peer.mpi else THEIRS


def measure(draft: Draft, options: Options) -> None:
    """All numbers of ranks; the first has half of the time."""
    part, found = draft.begin(PART, NAMES, vars(options))
    with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
        for number, ranks in enumerate(options.numbers):
            rounds = options.rounds if number == 0 else max(1, options.rounds // FEWER)
            parts = 1 if len(options.numbers) == 1 else 2 * (1 if number == 0 else len(options.numbers) - 1)
            asked = Asked(PART, ranks, rounds, rounds, options.seconds / parts, PAIRS)
            sizes = fitting(part, options.sizes, ranks)
            tables = tabled(part, found, ranks, Path(folder)) if options.tune else {}
            seconds = case_seconds(asked, len(found), len(sizes), len(OURS))
            task = Task(sizes, (), "", seconds, LEAST, MOST, ITERATIONS, WARMUP, 0)
            Rounds(draft.report, part, draft.write, Here(), found, asked, task, cases, tables).run()


def fitting(part: Part, sizes: tuple[int, ...], ranks: int) -> tuple[int, ...]:
    """The sizes whose arrays fit into the memory that is available; the others are missing."""
    why = {size: lacking(size, ranks) for size in sizes}
    for size, what in why.items():
        if what:
            part.miss(f"{ranks} ranks: {format_bytes(size)} left out: {what}")
    return tuple(size for size in sizes if not why[size])


def lacking(size: int, ranks: int) -> str:
    """What there is not enough of, in words; nothing if there is."""
    need, available = ranks * ARRAYS * size, available_memory()
    if need > available:
        return f"it takes about {format_bytes(need)}, and {format_bytes(available)} of memory are available"
    need = ranks * size
    shared = psutil.disk_usage(str(SHARED_MEMORY)).free if SHARED_MEMORY.is_dir() else available
    if need > shared:
        return f"its registered arrays take {format_bytes(need)}, and {SHARED_MEMORY} has {format_bytes(shared)} free"
    return ""


def tabled(part: Part, found: Sequence[Peer], ranks: int, folder: Path) -> dict[str, Path]:
    """A table for ours on each MPI; where a sweep fails, "auto" goes by the price model, and the report says so."""
    sweep = tuning.Sweep(64 << 20, 0.03)
    tables = {}
    for peer in found:
        if peer.mpi:
            click.echo(f"{PART}: tuning on {ranks} ranks of {peer.name}", err=True)
            table = folder / f"{peer.python.parent.parent.name}-{ranks}.json"
            _, why = tuning.tune(Here(), peer, ranks, sweep, table)
            if why:
                part.miss(f"{peer.name}, {ranks} ranks: no table, auto went by default prices: {why}")
            else:
                tables[peer.name] = table
    return tables
