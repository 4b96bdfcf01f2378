"""`hpcdist train`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from hpcdist.device.host import CPU
from hpcdist.device.kinds import by_name
from hpcdist.errors import AgreedError, LaunchError
from hpcdist.train.config import Config, ConfigError, load, options
from hpcdist.train.signals import STOPPED, StopRequest

if TYPE_CHECKING:
    from mpi4py import MPI

    from hpcdist.train.loop import Outcome


@click.command()
@options
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="TOML file with settings, named as the flags are; flags win.",
)
@click.option("--explain", is_flag=True, help="Say why this all-reduce algorithm was chosen.")
def train(file: Path | None, explain: bool, **flags: Any) -> None:
    """Train a model data-parallel on all ranks, with checkpoints.

    Start it with mpirun or srun; alone it trains on one rank. Results go to OUT: config.toml, log.csv,
    training.png, and last summary.json, which is there only if the run is complete.

    SIGUSR1, SIGTERM and Ctrl-C make it write a checkpoint and stopped.json, and exit with code 85, "run me again"; a
    second Ctrl-C ends it at once. A launcher may report another code: Open MPI's mpirun 1 if it got the SIGTERM
    itself, srun -K that of a rank that it ended because another was sooner.
    """
    with StopRequest() as stop:  # before all else: a signal may come while MPI starts
        _train(file, explain, stop, flags)


def _train(file: Path | None, explain: bool, stop: StopRequest, flags: dict[str, Any]) -> None:
    choose_device(file, flags)
    from hpcdist.mpi.collective_errors import agree_on, on_root
    from hpcdist.mpi.world import world
    from hpcdist.train import loop  # here, as they start MPI, which --help must not need
    from hpcdist.train.setup import settings_of_all

    try:
        comm = world()
    except LaunchError as error:
        raise click.ClickException(str(error)) from error
    try:
        raw = on_root(comm, lambda: file.read_bytes() if file else b"")
        settings = (load(file, raw) if file else {}) | {
            name: value for name, value in flags.items() if value is not None
        }
        agree_on(comm, settings_of_all(comm, settings))
        Config(**settings)
        outcome = loop.train(comm, settings, Console(), explain, stop)
    except ConfigError as error:
        leave(comm, 2, f"Error: {error}")
    except AgreedError as error:
        leave(comm, 1, f"Error: {error}")
    else:
        leave(comm, 0 if outcome.completed else STOPPED, closing_words(outcome))


def choose_device(file: Path | None, flags: dict[str, Any]) -> None:
    """Choose this rank's device before MPI starts, as MPI libraries that know devices look at which is current then.

    What is wrong is told later, by all ranks alike.
    """
    with suppress(OSError, ValueError, RuntimeError):
        given = load(file, file.read_bytes()) if file else {}
        by_name(flags["device"] or given.get("device", CPU))


def closing_words(outcome: Outcome) -> str:
    """How it ended, in a line."""
    if outcome.test_accuracy is None:
        return f"stopped on request after {outcome.steps} steps, with a checkpoint; go on with --resume auto"
    return f"complete after {outcome.steps} steps: test accuracy {100 * outcome.test_accuracy:.2f} %"


def leave(comm: MPI.Intracomm, code: int, words: str) -> None:
    """Rank 0 has the last word, then all ranks exit alike."""
    if comm.rank == 0:
        click.echo(words, err=code not in (0, STOPPED))
    comm.Barrier()
    sys.exit(code)
