"""`hpcdist bench`: what is measured, each part by itself or all of them, and the reports of what there is."""

from __future__ import annotations

import click

from hpcdist.util.verbs import Verbs

VERBS = {
    "node": ("hpcdist.bench.node:command", "All-reduces on ranks of this machine, beside MPI libraries and Gloo."),
    "network": ("hpcdist.bench.network:command", "The same on virtual hosts: shares of their links' rate."),
    "algorithms": ("hpcdist.bench.algorithms:command", "Each algorithm beside the library's own, here or on hosts."),
    "halves": ("hpcdist.bench.halves:command", "Half types beside float32."),
    "addresses": ("hpcdist.bench.addresses:command", "Buffers at each address within a page."),
    "commits": ("hpcdist.bench.commits:command", "Two commits of this package in turn."),
    "overlap": (
        "hpcdist.bench.overlap.report:command",
        "How much of an all-reduce is hidden behind its caller's work.",
    ),
    "gpu": ("hpcdist.bench.gpu.report:command", "All-reduces of device buffers on this machine's GPUs."),
    "checkpoints": (
        "hpcdist.bench.checkpoints.report:command",
        "Saves and restores beside h5py, torch and plain files.",
    ),
    "crash": ("hpcdist.bench.crash.report:command", "Training runs killed at random moments, and resumed."),
    "overhead": ("hpcdist.bench.overhead.report:command", "What checkpoints cost a training run."),
    "all": ("hpcdist.bench.every:all_", "Those beside libraries, but for commits, with their defaults."),
    "table": ("hpcdist.bench.every:table", "Write texts and figures anew from the numbers that there are."),
}


@click.group(cls=Verbs, verbs=VERBS)
def bench() -> None:
    """Measure what hpcdist does beside what others do, as reports that are kept whatever comes.

    Figures are ratios wherever they can be, since machines are noisy: cases take turns, in an order that is rotated
    and reversed, and are compared round by round.
    """
