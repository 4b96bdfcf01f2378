"""`hpcdist export`: what a sweep found out about an MPI library's own algorithms, as its tuning file. Needs no MPI."""

from __future__ import annotations

from pathlib import Path

import click

from hpcdist.sweep.export import mpich_json, openmpi_classic, openmpi_json, ucc
from hpcdist.sweep.export.table import summary, table
from hpcdist.sweep.merge import collect
from hpcdist.util import atomic_files

FORMATS = {
    "openmpi-classic": openmpi_classic.FORMAT,
    "openmpi-json": openmpi_json.FORMAT,
    "mpich-json": mpich_json.FORMAT,
    "ucc": ucc.FORMAT,
}
READABLE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("sweeps", nargs=-1, required=True, type=READABLE)
@click.option(
    "--format", "name", type=click.Choice(list(FORMATS)), required=True, help="Which library's file to write."
)
@click.option("-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The file to write.")
@click.option("--nodes", type=click.IntRange(min=1), help="Of sweeps on several numbers of nodes, take these.")
@click.option("--base", type=READABLE, help="mpich-json: the table to start from.  [default: the library's own]")
def export(sweeps: tuple[Path, ...], name: str, out: Path, nodes: int | None, base: Path | None) -> None:
    """Write a tuning file of an MPI library from what sweeps wrote with --json.

        hpcdist run -n 4 -- hpcdist sweep --library-algorithms --json sweep.json

        hpcdist export sweep.json --format openmpi-classic -o rules.conf

    The library then takes the fastest of its own algorithms, in programs that know nothing of hpcdist. Numbers of
    ranks that were not measured are left to the library. openmpi-json is read by Open MPI 6 and newer; ucc carries
    over to UCC what was measured with Open MPI or MPICH.
    """
    form = FORMATS[name]
    if base and not form.has_base:
        raise click.UsageError(f"--base is for mpich-json; a file of {name} needs none")
    try:
        _, records, _ = collect(sweeps)
        chosen = table(records, form, nodes)
        text = form.write(chosen, base)
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{', '.join(map(str, sweeps))}: {error}") from None
    atomic_files.write_text(out, text)
    beside = records if form.maker else []  # times of one library say nothing of another
    for line in [*summary(chosen, beside, nodes), "to use it:", *form.use(out)]:
        click.echo(line)
