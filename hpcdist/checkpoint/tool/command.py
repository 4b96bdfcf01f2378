"""`hpcdist checkpoint`: what a person does with checkpoints between two runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hpcdist.checkpoint.fence import FencedOut
from hpcdist.checkpoint.layout import COMPRESSIONS
from hpcdist.checkpoint.reader import Checkpoint, DamagedCheckpoint, read_manifest
from hpcdist.checkpoint.tool import compare as comparison
from hpcdist.checkpoint.tool import convert as conversion
from hpcdist.checkpoint.tool import export as exporting
from hpcdist.checkpoint.tool import listing
from hpcdist.checkpoint.tool import prune as pruning
from hpcdist.checkpoint.tool import show as showing
from hpcdist.checkpoint.tool.find import all_below, is_checkpoint, meant, whole
from hpcdist.checkpoint.tool.owner import Owned
from hpcdist.checkpoint.tool.progress import Bar
from hpcdist.checkpoint.tool.rows import state_nbytes
from hpcdist.checkpoint.tool.verify import damages
from hpcdist.util.parameters import reported
from hpcdist.util.sizes import format_bytes

DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)
FORCE = click.option("--force", is_flag=True, help="Take the directory even from a run that may still go on.")


def _what_happened(error: Exception) -> str:
    """The error, unless a checkpoint is gone because a run that goes on keeps newer ones."""
    if not isinstance(error, DamagedCheckpoint) or error.path.exists():
        return str(error)
    return f"{error.path} was removed while it was read, as a run that goes on keeps only its newest; try again"


_reported = reported(DamagedCheckpoint, FencedOut, Owned, pruning.NoneWhole, OSError, words=_what_happened)


@click.group()
def checkpoint() -> None:
    """Look at checkpoints: list, show, verify, compare, convert, export, and prune them.

        hpcdist checkpoint list out/checkpoints

        hpcdist checkpoint verify out/checkpoints

    One process is enough, without MPI. Where a checkpoint is wanted, a directory of checkpoints stands for the
    newest in it.
    """


@checkpoint.command("list")
@click.argument("directory", type=DIRECTORY)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_reported
def list_(directory: Path, as_json: bool) -> None:
    """List a DIRECTORY of checkpoints, and say whose it is.

    Sizes of files are compared with the manifests, nothing is read: what looks whole has yet to be verified.
    """
    if is_checkpoint(directory):
        raise click.UsageError(f"{directory} is a checkpoint; give the directory above, or see hpcdist checkpoint show")
    found = listing.listing(directory)
    for line in [json.dumps(found.to_json(), indent=1)] if as_json else listing.text(found):
        click.echo(line)


@checkpoint.command()
@click.argument("path", type=DIRECTORY)
@_reported
def show(path: Path) -> None:
    """Print what the checkpoint PATH says of itself.

    That is step, facts, files and arrays. Of the files only sizes are looked at; the exit code is 1 if they are wrong.
    """
    taken = _taken(path)
    for line in showing.text(taken, read_manifest(taken)):
        click.echo(line)
    whole(taken)


@checkpoint.command()
@click.argument("path", type=DIRECTORY)
@click.option("--all", "every", is_flag=True, help="All checkpoints in the directory PATH.")
@_reported
def verify(path: Path, every: bool) -> None:
    """Read the checkpoint PATH and name all that is damaged.

    Every piece is compared with its digest, and state.h5 with the pieces. The exit code is 1 if anything is damaged.
    """
    wrong = False
    for each in all_below(path) if every else [_taken(path)]:
        try:
            wrong |= _verify(each)
        except DamagedCheckpoint as error:  # raised only if it is gone
            if not every:
                raise
            click.echo(_what_happened(error), err=True)
    sys.exit(int(wrong))


def _verify(path: Path) -> bool:
    """Verify one checkpoint and say how it is; whether it is damaged.

    Raises:
        DamagedCheckpoint: it was removed meanwhile.
    """
    try:
        found = Checkpoint(path, read_manifest(path))
    except DamagedCheckpoint as error:
        if not path.exists():
            raise
        click.echo(f"{path}: {error.why}")
        return True
    count = 0
    with Bar(path.name, state_nbytes(found)) as shown:
        for problem in damages(found, shown.told):
            if not path.exists():
                raise DamagedCheckpoint(path, problem)
            shown.say(f"{path}: {problem}")
            count += 1
    if not count:
        click.echo(f"{path}: whole, {_size(found)}")
    return count > 0


@checkpoint.command()
@click.argument("one", metavar="A", type=DIRECTORY)
@click.argument("other", metavar="B", type=DIRECTORY)
@click.option("--facts", is_flag=True, help="Facts count, too.")
@_reported
def compare(one: Path, other: Path, facts: bool) -> None:
    """Say whether A and B hold the same state bit for bit.

    Their layouts may differ. Step, names, shapes, dtypes and bytes count; facts, such as the configuration, are only
    printed. The exit code is 1 if something that counts differs, or is damaged.
    """
    a, b = whole(_taken(one)), whole(_taken(other))
    count = 0
    with Bar("comparing", state_nbytes(a) + state_nbytes(b)) as shown:
        for difference in comparison.state_differences(a, b, shown.told):
            shown.say(difference)
            count += 1
    for difference in comparison.fact_differences(a.facts, b.facts):
        click.echo(difference)
        count += facts
    if not count:
        click.echo(f"equal bit for bit: step {a.step}, {_size(a)}")
    sys.exit(int(count > 0))


@checkpoint.command()
@click.argument("source", metavar="SRC", type=DIRECTORY)
@click.argument("directory", metavar="DST_DIR", type=click.Path(file_okay=False, path_type=Path))
@click.option("--layout", type=click.Choice(("shards", "single")), default="shards", show_default=True)
@click.option("--writers", type=click.IntRange(min=1), help="Files for arrays.  [default: by size, 4 at most]")
@click.option("--compression", type=click.Choice(COMPRESSIONS), default="none", show_default=True)
@FORCE
@_reported
def convert(source: Path, directory: Path, layout: str, writers: int | None, compression: str, force: bool) -> None:
    """Write the checkpoint SRC into DST_DIR in another layout.

    DST_DIR is another directory of checkpoints, which is taken from its owner, as by prune. Nothing is ever written
    over. One file's content is in memory at a time: with more --writers, less.
    """
    if layout == "single" and (writers or 1) > 1:
        raise ValueError(f"--layout single is one file, --writers {writers} are {writers}")
    found = whole(_taken(source))
    count = 1 if layout == "single" else writers or 0
    with Bar("converting", 2 * state_nbytes(found)) as shown:  # read, and read back
        path = conversion.convert(found, directory, count, compression, force, shown.told)
    click.echo(f"{path}: written and read back, {_size(found)}")


@checkpoint.command()
@click.argument("directory", type=DIRECTORY)
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest to keep.")
@click.option("--damaged", is_flag=True, help="Remove those that were found damaged and set aside, too.")
@FORCE
@_reported
def prune(directory: Path, keep: int, damaged: bool, force: bool) -> None:
    """Remove old checkpoints of a DIRECTORY that no run uses.

    The newest stay, and one of them must be whole: they are read, the newest first, until one is. Drafts that killed
    runs have left go, too, however few checkpoints there are.

    A run still uses the directory if the process that took it is alive on this host, or if Slurm knows its job. If it
    ran elsewhere without Slurm, that cannot be known, and --force is needed. A run that goes on and loses the
    directory ends at its next checkpoint; no checkpoint is broken by that.
    """
    if is_checkpoint(directory):
        raise click.UsageError(f"{directory} is a checkpoint; give the directory above")
    done = pruning.prune(directory, keep, force, damaged)
    for error in done.damaged:
        click.echo(f"Warning: {error}", err=True)
    for path in done.removed:
        click.echo(f"{path}: removed")
    read = f", {done.read.name} was read and is whole" if done.read else ", none is too many"
    click.echo(f"{directory}: kept {', '.join(path.name for path in done.kept) or 'none'}{read}")


@checkpoint.command()
@click.argument("path", type=DIRECTORY)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--only", metavar="PATTERN", default="parameters*", show_default=True, help="Names of arrays; '*': all.")
@_reported
def export(path: Path, file: Path, only: str) -> None:
    """Write arrays of the checkpoint PATH into one plain FILE.

    Its ending says what it is: .h5, .npz, or .pt for torch. A FILE of that name is replaced when the new one is whole.
    """
    if file.suffix not in exporting.WRITERS:
        raise ValueError(f"{file} does not end in {', '.join(exporting.WRITERS)}, which say what to write")
    if file.suffix == ".pt" and (why := exporting.torch_missing()):
        raise click.ClickException(why)
    found = whole(_taken(path))
    names = exporting.matching(found, only)
    nbytes = exporting.nbytes_of(found, names)
    with Bar("exporting", nbytes) as shown:
        exporting.export(found, names, file, shown.told)
    click.echo(f"{file}: {', '.join(names)}, {format_bytes(nbytes)}, of step {found.step}")


def _taken(path: Path) -> Path:
    """The checkpoint that is meant; said on stderr if it is not the one that was named."""
    found = meant(path)
    if found != path:
        click.echo(f"{path}: the newest is {found.name}", err=True)
    return found


def _size(found: Checkpoint) -> str:
    count = len(found.manifest.arrays)
    return f"{count} array{'s' * (count != 1)}, {format_bytes(state_nbytes(found))}"
