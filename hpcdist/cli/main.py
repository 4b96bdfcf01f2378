"""The front door: `hpcdist VERB`. Each verb lives in its own room and is imported only when it is called."""

from __future__ import annotations

import click

from hpcdist._version import __version__
from hpcdist.util.verbs import Verbs

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
    "bench": ("hpcdist.bench.command:bench", "Measure what hpcdist does beside what others do, as reports of ratios."),
    "doctor": ("hpcdist.doctor.command:doctor", "Look at a job's set-up and say what is wrong with it."),
    "cluster": ("hpcdist.cluster.command:cluster", "Virtual hosts on this machine, behind links of a chosen rate."),
}


@click.group(cls=Verbs, verbs=VERBS)
@click.version_option(__version__, prog_name="hpcdist")
def main() -> None:
    """All-reduce algorithms as data: proven, run, priced, tuned, and trained with on MPI clusters."""
