"""`hpcdist cluster`, and what is measured on such clusters."""

from __future__ import annotations

import click

from hpcdist.cluster.command import cluster

__all__ = ["cluster"]


@cluster.command(context_settings={"ignore_unknown_options": True}, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def report(arguments: tuple[str, ...]) -> None:
    """Measure algorithms as a share of the links' rate, on clusters of its own; writes tables and figures."""
    from hpcdist.bench.links.report import main  # here, as its options are many

    main(arguments, prog_name="hpcdist cluster report")
