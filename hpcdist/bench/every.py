"""All parts of the report beside the libraries at once; and the texts of all reports anew from their numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hpcdist.bench import addresses, algorithms, beside, halves, network, node
from hpcdist.bench.checkpoints import report as checkpoints
from hpcdist.bench.crash import report as crash
from hpcdist.bench.draft import Draft, Kind, drafted
from hpcdist.bench.gpu import report as gpu
from hpcdist.bench.overhead import report as overhead
from hpcdist.bench.overlap import report as overlap
from hpcdist.bench.record import Part

PARTS = (node, algorithms, halves, addresses, network)
OF_VERB = {"out", "json", "environments", "torch", "peers"}


def measure(draft: Draft[Part], asked: beside.Beside, seconds: float | None) -> None:
    """Each with its defaults, but for the time."""
    defaults = [part.command.make_context(part.PART, []).params for part in PARTS]
    points = len(defaults[-1]["rates"]) * len(defaults[-1]["ranks"])
    whole = sum(part.SECONDS for part in PARTS) + (points - 1) * network.SECONDS
    for part, params in zip(PARTS, defaults, strict=True):
        given: dict[str, Any] = {name: value for name, value in params.items() if name not in OF_VERB}
        given["seconds"] *= 1.0 if seconds is None else seconds / whole
        part.measure(draft.asked(given), asked, **given)


all_ = beside.verb(
    "all",
    "All parts but commits, with the defaults of each.",
    measure,
    click.option(
        "--seconds",
        type=click.FloatRange(min=0, max=10 * 86400),
        help="About so long for all, beside sweeps and starting jobs; shared out as the defaults of the parts are.",
    ),
)

KINDS: tuple[Kind, ...] = (beside.KIND, overlap.KIND, overhead.KIND, checkpoints.KIND, gpu.KIND, crash.KIND)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="results/bench",
    show_default=True,
    help="Folder with the numbers, where text and figures go.",
)
def table(out: Path) -> None:
    """Write texts and figures of all reports in a folder anew from their numbers."""
    there = [kind for kind in KINDS if (out / f"{kind.name}.json").exists()]
    if not there:
        names = ", ".join(f"{kind.name}.json" for kind in KINDS)
        raise click.ClickException(f"none of {names} is in {out}; measure a part first")
    for kind in there:
        drafted(kind, out).draw()
