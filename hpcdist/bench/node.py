"""Ranks of one machine: ours on ordinary and on registered arrays, the library's own, a copy; all libraries in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import psutil

from hpcdist.bench import beside, options, tuning
from hpcdist.bench.beside import Beside
from hpcdist.bench.draft import Draft
from hpcdist.bench.peers import NAMES, Peer
from hpcdist.bench.record import Part
from hpcdist.bench.rounds import Asked, Rounds, case_seconds
from hpcdist.bench.start import Here
from hpcdist.bench.task import AUTO, CALL, COPY, LIBRARY, REGISTERED, Samples, Task
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
SAMPLES = Samples(3, 21, 50, 2)
SECONDS = 1500.0
SHARED_MEMORY = Path("/dev/shm")  # where registered arrays lie
ARRAYS = 6  # of a rank: three of its own, what plans receive into, and what a library may keep
FEWER = 2  # times as few rounds of all numbers of ranks but the first


def cases(peer: Peer) -> tuple[str, ...]:
    """Of a library's jobs."""
    return OURS if peer.mpi else THEIRS


def measure(
    draft: Draft[Part],
    asked: Beside,
    sizes: tuple[int, ...],
    ranks: tuple[int, ...],
    rounds: int,
    seconds: float,
    tune: bool,
) -> None:
    """All numbers of ranks; the first has half of the time."""
    part, found = asked.begin(draft, PART, NAMES)
    with tempfile.TemporaryDirectory(prefix="hpcdist-bench-") as folder:
        for number, count in enumerate(ranks):
            some = rounds if number == 0 else max(1, rounds // FEWER)
            parts = 1 if len(ranks) == 1 else 2 * (1 if number == 0 else len(ranks) - 1)
            tables = tabled(part, found, count, Path(folder)) if tune else {}
            effort = Asked(PART, count, some, some, seconds / parts, PAIRS)
            here(draft, part, found, effort, sizes, SAMPLES, cases, tables)


def here(
    draft: Draft[Part],
    part: Part,
    found: Sequence[Peer],
    asked: Asked,
    sizes: tuple[int, ...],
    samples: Samples,
    cases: Callable[[Peer], tuple[str, ...]],
    tables: dict[str, Path] | None = None,
) -> None:
    """The rounds of all libraries on this machine, of sizes that there is room for."""
    sizes = fitting(part, sizes, asked.ranks)
    seconds = case_seconds(asked, len(found), len(sizes), max((len(cases(peer)) for peer in found), default=1))
    task = Task(sizes, (), "", seconds, *samples, 0)
    Rounds(draft, part, Here(), found, asked, task, cases, tables).run()


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


command = beside.verb(
    PART,
    "Ranks of this machine: ordinary and registered arrays, the libraries, a copy.",
    measure,
    options.sizes(SIZES),
    options.numbers("--ranks", "2,4", "Of this machine."),
    options.rounds(11, "For the first number of ranks; half as many for others."),
    options.seconds(SECONDS, "About so long, half of it for the first number of ranks."),
    click.option("--tune/--no-tune", default=True, show_default=True, help="Make a selection table for auto before."),
)
