"""`hpcdist merge`: the sweeps of several jobs, such as one for each number of nodes, as one report. Needs no MPI."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from hpcdist.simulate import cost
from hpcdist.sweep import figure, tune
from hpcdist.sweep.record import VERSION, Record, read_json, write_csv
from hpcdist.tuning.table import Selection
from hpcdist.util import atomic_files

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("sweeps", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "json_", type=FILE, help="Write all results to this file.")
@click.option("--csv", type=FILE, help="Write all results to this file.")
@click.option("--figure", "figure_", type=FILE, help="Draw busbw over size, a panel for each number of ranks.")
@click.option("--tune", "table", type=FILE, help='Write the selection table that algorithm="auto" reads.')
def merge(
    sweeps: tuple[Path, ...], json_: Path | None, csv: Path | None, figure_: Path | None, table: Path | None
) -> None:
    """Put together what several sweeps wrote with --json.

        hpcdist merge sweep-*-nodes.json --figure busbw --tune selection.json

    A point that several of them measured counts as in the latest. The exit code is 1 if any element was wrong.
    """
    try:
        heads, records = collect(sweeps)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    for head in heads:
        remark = ", interrupted: only its first sizes are there" if head["interrupted"] else ""
        click.echo(f"{head['file']}: {head['machine']['ranks']} ranks, {head['start_time']}{remark}")
    if json_:
        _write_json(json_, heads, records)
    if csv:
        write_csv(csv, records)
    if table:
        _write_table(table, heads, records)
    if figure_ and any(record.busbw for record in records):  # which a lone rank has not
        figure.write(figure_, [record for record in records if record.busbw])
    sys.exit(int(any(record.wrong for record in records)))


def collect(paths: tuple[Path, ...]) -> tuple[list[dict[str, Any]], list[Record]]:
    """The heads of all reports, by number of ranks and then by time, and their records without repetitions.

    Raises:
        OSError, ValueError: if a file cannot be read or is no report of a sweep.
    """
    reports = [({"file": str(path), **head}, records) for path in paths for head, records in [read_json(path)]]
    reports.sort(key=lambda report: (report[0]["machine"]["ranks"], report[0]["start_time"]))
    latest = {_point(record): record for _, records in reports for record in records}
    return [head for head, _ in reports], list(latest.values())


def _point(record: Record) -> tuple:
    """What tells one measurement from another."""
    return (
        record.ranks, record.nodes, record.dtype, record.op, record.nbytes,
        record.algorithm, record.segment_nbytes, record.placement, record.timing, record.memory, record.path,
    )  # fmt: skip


def _write_json(path: Path, heads: list[dict[str, Any]], records: list[Record]) -> None:
    document = {
        "version": VERSION,
        "model": _model(heads),
        "interrupted": any(head["interrupted"] for head in heads),
        "sweeps": heads,
        "results": [record.row() for record in records],
    }
    atomic_files.write_text(path, json.dumps(document, indent=1) + "\n")


def _write_table(path: Path, heads: list[dict[str, Any]], records: list[Record]) -> None:
    provenance = {"sweeps": [{name: head[name] for name in ("file", "command", "start_time")} for head in heads]}
    Selection(tune.rules(records), cost.Model.from_dict(_model(heads)), provenance, str(path)).write(path)


def _model(heads: list[dict[str, Any]]) -> dict[str, Any]:
    """The prices that the sweep with most ranks found: numbers of ranks that nobody measured are mostly larger."""
    return heads[-1]["model"]
