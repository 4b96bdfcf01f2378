"""A report in the making: its files, the part at hand, and a command that writes both whatever comes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import click

from hpcdist.bench.saved import Part, Report, read
from hpcdist.bench.start import Hosts, cluster
from hpcdist.cluster.namespaces import NamespaceError
from hpcdist.cluster.plan import Network
from hpcdist.cluster.state import StateError
from hpcdist.util import atomic_files
from hpcdist.util.sampling import now
from hpcdist.util.signals import endings_as_exceptions

P = TypeVar("P", bound=Part)


@dataclass(frozen=True)
class Kind(Generic[P]):
    """A kind of report.

    Attributes:
        name: Of its files: NAME.json, NAME.md.
        folder: Below results/, where it goes unless another is named.
        part: What its parts are.
        text: It as Markdown, with the figures that there are, file by name.
        draw: Draws its figures into a folder, and returns their files; matplotlib takes long to import.
        failed: Whether a command that has measured exits with 1 though nothing is wrong.
    """

    name: str
    folder: str
    part: type[P]
    text: Callable[[Report[P], Mapping[str, str]], str]
    draw: Callable[[Path, Report[P]], list[Path]] = lambda folder, report: []
    failed: Callable[[Report[P]], bool] = lambda report: False


class Draft(Generic[P]):
    """A report that is written anew whenever there is more of it.

    Args:
        kind: Which.
        out: Folder of its files.
        json: Of its numbers, if not NAME.json there.

    Raises: OSError or ValueError if there are numbers that are no such report.
    """

    def __init__(self, kind: Kind[P], out: Path, json: Path | None = None) -> None:
        self.kind, self.out, self.json = kind, out, json or out / f"{kind.name}.json"
        self.report: Report[P] = read(self.json, kind.part) if self.json.exists() else Report({})
        self.config: dict[str, Any] = {}
        self.part: P | None = None
        self.failed = False

    def asked(self, config: dict[str, Any]) -> Draft[P]:
        """The same, whose next parts are told with these options."""
        self.config = config
        return self

    def start(self, name: str) -> P:
        """Start a part anew."""
        self.part = self.report.parts[name] = self.kind.part(["hpcdist", *sys.argv[1:]], now(), self.config)
        return self.part

    def on_hosts(self, part: P, network: Network, name: str, measure: Callable[[Hosts], None]) -> None:
        """Measure on a virtual cluster, which is ended; where there can be none, the part says why."""
        try:
            with cluster(name, network) as hosts:
                measure(hosts)
        except (StateError, NamespaceError, OSError) as error:
            self.miss(part, f"{len(network.hosts)} hosts: {error}")
            self.write()

    def miss(self, part: P, what: str) -> None:
        """Note what failed, for which the command exits with 1."""
        part.miss(what)
        self.failed = True

    def write(self) -> None:
        """The numbers and the text."""
        self.report.write(self.json)
        there = {path.stem: path.name for path in sorted(self.out.glob("*.png"))}
        atomic_files.write_text(self.out / f"{self.kind.name}.md", self.kind.text(self.report, there))

    def draw(self) -> None:
        """The figures, and the text that shows them."""
        for file in self.kind.draw(self.out, self.report):
            click.echo(f"wrote {file}", err=True)
        self.write()
        click.echo(f"wrote {self.out / f'{self.kind.name}.md'}", err=True)


def measured(draft: Draft, measure: Callable[[], None]) -> None:
    """Measure, write the report, also if we are told to end, and exit."""
    try:
        with endings_as_exceptions():
            measure()
    except KeyboardInterrupt:
        if draft.part is not None:
            draft.miss(draft.part, "interrupted: what comes after was not measured")
        draft.failed = True
    draft.draw()
    sys.exit(int(bool(draft.failed or draft.report.wrong or draft.kind.failed(draft.report))))


def drafted(kind: Kind[P], out: Path, json: Path | None = None) -> Draft[P]:
    """A draft, for a command.

    Raises: click.ClickException if there are numbers that are no such report.
    """
    try:
        return Draft(kind, out, json)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
