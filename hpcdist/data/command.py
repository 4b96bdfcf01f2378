"""`hpcdist data`: make, check and import the data sets that `hpcdist train` reads."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from hpcdist.data import importing
from hpcdist.data.dataset import SPLITS, DataError, Dataset
from hpcdist.data.tables import Source, read
from hpcdist.util.sizes import format_bytes

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_out = click.option(
    "-o", "--out", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The HDF5 file to write."
)
_force = click.option("--force", is_flag=True, help="Replace a file that is there.")
_seed = click.option("--seed", type=click.IntRange(min=0), default=importing.SEED, show_default=True)
_test = click.option(
    "--test",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=importing.TEST,
    show_default=True,
    help="Share of the samples to judge by, drawn by --seed.",
)


@click.group()
def data() -> None:
    """Make, check and import data sets for `hpcdist train`.

    A data set is an HDF5 file with train/x [n, ...], samples to learn from, and train/y [n], their labels, integers
    from 0; and test/x and test/y to judge by. The attribute `classes` may say how many classes there are.
    """


@data.command()
@click.argument("file", type=FILE)
def check(file: Path) -> None:
    """Look at all of FILE as `hpcdist train` does, and say what it sees; exit with 1 if it would refuse it."""
    try:
        with Dataset(file) as found:
            found.look_at_all()
            _tell(found)
    except (DataError, OSError) as error:
        raise click.ClickException(str(error)) from None


@data.command("import")
@click.argument("source", type=FILE)
@click.argument("labels", type=FILE, required=False)
@_out
@click.option("--label", "column", metavar="COLUMN", help="Of a CSV file: name or number, from 0.  [default: the last]")
@_test
@_seed
@click.option("--standardise", is_flag=True, help="Mean 0 and variance 1 of each feature, by the part to learn from.")
@_force
def import_(
    source: Path,
    labels: Path | None,
    out: Path,
    column: str | None,
    test: float,
    seed: int,
    standardise: bool,
    force: bool,
) -> None:
    """Write what SOURCE holds as a data set.

    SOURCE is a CSV file, a sample in each row; an .npz file with arrays x and y, or train_x, train_y, test_x and
    test_y; or an .npy file of samples, with another one of LABELS. Labels that are text, or do not begin at 0, become
    0, 1, 2, ... in their order, and the file keeps their names.
    """
    _refuse_if_there(out, force)
    try:
        found = importing.split(read(source, labels, column), source, test, seed)
        importing.store(out, importing.standardised(found) if standardise else found)
        with Dataset(out) as written:
            written.look_at_all()
            _tell(written)
    except (DataError, OSError) as error:
        raise click.ClickException(str(error)) from None
    if found.names:
        click.echo("classes: " + ", ".join(f"{number} {name}" for number, name in enumerate(found.names)))


@data.command()
@_out
@click.option("--samples", type=click.IntRange(min=2), default=10_000, show_default=True)
@click.option("--features", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--classes", type=click.IntRange(min=2), default=10, show_default=True)
@click.option(
    "--noise", type=click.FloatRange(min=0), default=1.0, show_default=True, help="Spread of a class in each feature."
)
@_test
@_seed
@_force
def make(
    out: Path, samples: int, features: int, classes: int, noise: float, test: float, seed: int, force: bool
) -> None:
    """Make a data set for a first trial: a cloud of samples about a centre for each class."""
    _refuse_if_there(out, force)
    chance = np.random.default_rng(seed)
    centres = chance.standard_normal((classes, features), np.float32)
    y = chance.integers(classes, size=samples)
    x = centres[y] + np.float32(noise) * chance.standard_normal((samples, features), np.float32)
    try:
        importing.store(out, importing.split(Source({"all": (x, y)}), out, test, seed))
        with Dataset(out) as written:
            written.look_at_all()
            _tell(written)
    except (DataError, OSError) as error:
        raise click.ClickException(str(error)) from None


def _refuse_if_there(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise click.ClickException(f"{path} is there already; replace it with --force, or choose another name")


def _tell(found: Dataset) -> None:
    """What a data set holds, in a few lines."""
    click.echo(
        f"{found.path}: {format_bytes(found.path.stat().st_size)}, {found.classes} classes, digest {found.digest}"
    )
    for split in SPLITS:
        counts = found.labels(split)
        least, most = counts.min(), counts.max()
        click.echo(f"{split}: {found.sizes[split]} samples of {list(found.sample_shape)}, {least} to {most} of a class")
    for note in found.notes:
        click.echo(f"note: {note}")
