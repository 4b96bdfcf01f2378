"""`hpcdist merge`: the sweeps of several jobs, such as one for each number of nodes, as one report. Needs no MPI."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from hpcdist.simulate import cost
from hpcdist.sweep import figure, report, tune
from hpcdist.sweep.record import VERSION, Record, point, read_json, write_csv
from hpcdist.tuning.table import Rule, Selection
from hpcdist.util import atomic_files, typed_json

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
        heads, records, owners = collect(sweeps)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    for head in heads:
        remark = ", interrupted: only its first sizes are there" if head["interrupted"] else ""
        click.echo(f"{head['file']}: {head['machine']['ranks']} ranks, {head['start_time']}{remark}")
    for line in report.answer(records):
        click.echo(line)
    if json_:
        _write_json(json_, heads, records, owners)
    if csv:
        write_csv(csv, records)
    if table:
        rules = tune.rules(records)
        _write_table(table, heads, rules)
        for line in report.in_words(rules):
            click.echo(line)
    if figure_ and any(record.busbw for record in records):  # which a lone rank has not
        figure.write(figure_, [record for record in records if record.busbw])
    sys.exit(int(any(record.wrong for record in records)))


def collect(paths: tuple[Path, ...]) -> tuple[list[dict[str, Any]], list[Record], list[int]]:
    """The heads of all reports, by number of ranks and then by time; their records without repetitions; whose each is.

    Raises:
        OSError, ValueError: if a file cannot be read or is no report of a sweep.
    """
    reports = [report for path in paths for report in _reports(path)]
    reports.sort(key=lambda report: (report[0]["machine"]["ranks"], datetime.fromisoformat(report[0]["start_time"])))
    latest = {point(record): (record, number) for number, (_, records) in enumerate(reports) for record in records}
    return [head for head, _ in reports], [record for record, _ in latest.values()], [own for _, own in latest.values()]


def _reports(path: Path) -> list[tuple[dict[str, Any], list[Record]]]:
    """The head and the records of a sweep, or of all that were merged into a file."""
    head, records = read_json(path)
    if "sweeps" not in head:
        return [({"file": str(path), **head}, records)]
    owners = head["owners"]
    return [
        (each, [record for record, owner in zip(records, owners, strict=True) if owner == number])
        for number, each in enumerate(head["sweeps"])
    ]


def _write_json(path: Path, heads: list[dict[str, Any]], records: list[Record], owners: list[int]) -> None:
    document = {
        "version": VERSION,
        "model": _model(heads),
        "interrupted": any(head["interrupted"] for head in heads),
        "sweeps": heads,
        "owners": owners,  # of each result, its sweep
        "results": [record.row() for record in records],
    }
    atomic_files.write_text(path, typed_json.text(document))


def _write_table(path: Path, heads: list[dict[str, Any]], rules: Sequence[Rule]) -> None:
    provenance = {"sweeps": [{name: head[name] for name in ("file", "command", "start_time")} for head in heads]}
    Selection(tuple(rules), cost.Model.from_dict(_model(heads)), provenance, str(path)).write(path)


def _model(heads: list[dict[str, Any]]) -> dict[str, Any]:
    """The prices that the sweep with most ranks found: numbers of ranks that nobody measured are mostly larger."""
    return heads[-1]["model"]
