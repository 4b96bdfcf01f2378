"""Jobs of this environment's ranks: what they find becomes a part of a report, also if they fail or are interrupted."""

from __future__ import annotations

import math
import os
import runpy
import sys
import tempfile
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import click

from hpcdist.bench.draft import Draft
from hpcdist.bench.peers import Peer
from hpcdist.bench.processes import call
from hpcdist.bench.saved import Part, builtins
from hpcdist.bench.start import Here, Place
from hpcdist.cluster import plan
from hpcdist.mpi.launcher import started
from hpcdist.util import typed_json

OURS = Peer("this environment", Path(sys.executable), "")


def everywhere(
    draft: Draft,
    module: str,
    asked: Mapping[str, Any],
    ranks: Iterable[int],
    hosts: Iterable[int] = (),
    rate: int = 0,
    name: str = "",
    scratch: Path | None = None,
) -> None:
    """A job, and a part, for each number of ranks of this machine, then of virtual hosts; under a launcher just one.

    Args:
        draft: Of the report.
        module: What each rank runs; see `findings.main`.
        asked: What it is asked to do.
        ranks: Numbers of them; 0 for none.
        hosts: Numbers of them, with a rank on each; 0 for none.
        rate: Of their links [bit/s].
        name: Of the cluster.
        scratch: Folder for what jobs write; by default where temporary files belong.
    """
    launcher = started(os.environ)
    if launcher and launcher.processes > 1:
        part = draft.start(f"{launcher.processes} ranks of {launcher.launcher}")
        _job(draft, part, module, asked, scratch, launcher.processes, None)
        return
    for count in filter(None, ranks):
        part = draft.start(f"{count} rank{'s' if count > 1 else ''}")
        _job(draft, part, module, asked, scratch, count, Here())
    for count in filter(None, hosts):
        part = draft.start(f"{count} hosts, {plan.format_rate(rate)}")
        job = partial(_job, draft, part, module, asked, scratch, count)
        draft.on_hosts(part, plan.network(count, rate), name, job)


def _job(
    draft: Draft,
    part: Part,
    module: str,
    asked: Mapping[str, Any],
    scratch: Path | None,
    count: int,
    place: Place | None,
) -> None:
    began = monotonic()
    with tempfile.TemporaryDirectory(prefix="hpcdist-bench-", dir=scratch and scratch.absolute()) as folder:
        task, out = Path(folder) / "task.json", Path(folder) / "found.json"
        given = {**asked, "out": out} | ({"scratch": folder} if scratch else {})
        task.write_text(typed_json.text(builtins(given)))
        try:
            why = _apart(place, count, module, task) if place else _within(module, task)
        finally:
            if out.exists():
                part.take(typed_json.decode(out.read_bytes(), type(part), module))
            part.seconds = monotonic() - began
    if why:
        draft.miss(part, why)
    draft.failed |= not part.rows
    draft.write()


def _apart(place: Place, count: int, module: str, task: Path) -> str:
    """Start ranks; returns what went wrong, or nothing."""
    click.echo(f"{module}: {count} ranks, {place.name} ...", err=True)
    return call(place.ranks(OURS, count, ["-m", module, str(task)]), math.inf)


def _within(module: str, task: Path) -> str:
    """Be one of the ranks that a launcher has started; only rank 0 returns."""
    before, sys.argv = sys.argv, [module, str(task)]
    try:
        runpy.run_module(module, run_name="__main__")
    except SystemExit as ended:
        from mpi4py import MPI  # which the module has started

        if MPI.COMM_WORLD.rank or ended.code:
            raise
    finally:
        sys.argv = before
    return ""
