"""What all parts are told by the command line, and the report in the making."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hpcdist.bench import peers, table
from hpcdist.bench.peers import Peer
from hpcdist.bench.record import Part, Report
from hpcdist.bench.start import Hosts, cluster
from hpcdist.cluster.namespaces import NamespaceError
from hpcdist.cluster.plan import Network
from hpcdist.cluster.state import StateError
from hpcdist.util import atomic_files
from hpcdist.util.sampling import now


@dataclass(frozen=True)
class Settings:
    """Where the libraries are and where the report goes."""

    out: Path
    folder: Path
    torch: Path
    names: tuple[str, ...]


class Draft:
    """A report that is written anew whenever there is more of it.

    Args:
        settings: Where it goes.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.json = settings.out / "bench.json"
        self.report = Report.read(self.json) if self.json.exists() else Report()
        self.part: Part | None = None

    def begin(self, name: str, names: Sequence[str], config: dict[str, Any]) -> tuple[Part, list[Peer]]:
        """Start a part anew; returns it and the libraries that are there."""
        asked = [each for each in names if each in self.settings.names]
        found, missing = peers.find(asked, self.settings.folder, self.settings.torch)
        left_out = [f"{each}: not asked for (--peers)" for each in names if each not in asked]
        part = self.start(name, found, config)
        for what in missing + left_out:
            part.miss(what)
        return part, found

    def start(self, name: str, found: Sequence[Peer], config: dict[str, Any]) -> Part:
        """Start a part anew, with these libraries."""
        self.part = Part(["python", "-m", "hpcdist.bench", *sys.argv[1:]], now(), config)
        self.part.peers = {peer.name: peer.versions for peer in found}
        self.report.begin(name, self.part)
        return self.part

    def on_hosts(self, part: Part, network: Network, name: str, measure: Callable[[Hosts], None]) -> None:
        """Measure on a virtual cluster, which is ended; where there can be none, the part says why."""
        try:
            with cluster(name, network) as hosts:
                measure(hosts)
        except (StateError, NamespaceError, OSError) as error:
            part.miss(f"{len(network.hosts)} hosts: {error}")
            self.write()

    def interrupted(self) -> None:
        """Say so in the part at hand."""
        if self.part:
            self.part.missing.append("interrupted: what comes after was not measured")

    def write(self) -> None:
        """The numbers and the text."""
        self.report.write_json(self.json)
        atomic_files.write_text(self.settings.out / "bench.md", table.text(self.report, self.figures()))

    def figures(self) -> dict[str, str]:
        """Part or place -> its figure, of those that were drawn."""
        there = sorted(self.settings.out.glob("*.png"))
        return {path.stem: path.name for path in there}

    def draw(self) -> None:
        """The figures, and the text that shows them."""
        from hpcdist.bench import figure  # matplotlib takes long to import

        for file in figure.write(self.settings.out, self.report):
            click.echo(f"wrote {file}", err=True)
        self.write()
        click.echo(f"wrote {self.settings.out / 'bench.md'}", err=True)
