"""Reports that are kept as JSON and read back with a check of all their fields: parts, each with its rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, TypeVar

import click
import msgspec
import numpy as np
from msgspec import field

from hpcdist.util import atomic_files, typed_json


class Row(msgspec.Struct, forbid_unknown_fields=True):
    """One result."""

    def problems(self) -> list[str]:
        """What must not be, in words."""
        return []


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """How a part of a report came about, and what it came to; subclasses say of which kind its rows are.

    Attributes:
        command: As it was typed.
        start_time: With its zone.
        config: The options.
        seconds: That it took.
        machine: See `mpi.machine.describe`, and what a kind of report adds.
        missing: What failed or was left out, in words.
        wrong: What must not be and is told by no row, in words.
        rows: The results.
    """

    command: list[str] = field(default_factory=list)
    start_time: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)

    def miss(self, what: str) -> None:
        """Note what failed or was left out, and say so."""
        self.missing.append(what)
        click.echo(f"Missing: {what}", err=True)

    def take(self, found: Part) -> None:
        """Take over what a job has found."""
        for name in set(self.__struct_fields__) - {"command", "start_time", "config", "seconds"}:
            setattr(self, name, getattr(found, name))

    def problems(self) -> list[str]:
        """Whatever must not be."""
        return [*(problem for row in self.rows for problem in row.problems()), *self.wrong]

    def software(self) -> list[str]:
        """What its results depend on, with versions."""
        found = self.machine.get("versions", {}).items()
        return [self.machine[name] for name in ("mpi",) if name in self.machine] + [" ".join(each) for each in found]


P = TypeVar("P", bound=Part)


class Report(msgspec.Struct, Generic[P], forbid_unknown_fields=True, tag_field="version", tag=2):
    """All parts by name, growing as they come; a part that is measured again replaces what there was of it."""

    parts: dict[str, P]

    @property
    def rows(self) -> list[Any]:
        """Those of all parts."""
        return [row for part in self.parts.values() for row in part.rows]

    @property
    def missing(self) -> list[str]:
        """What failed or was left out anywhere."""
        return [f"{name}: {what}" for name, part in self.parts.items() for what in part.missing]

    @property
    def wrong(self) -> list[str]:
        """Whatever must not be."""
        return [f"{name}: {what}" for name, part in self.parts.items() for what in part.problems()]

    def write(self, path: Path) -> None:
        """Write all of it, a row a line; the file is whole or absent."""
        atomic_files.write_text(path, typed_json.lines(builtins(self), 4))


def read(path: Path, part: type[P]) -> Report[P]:
    """What `Report.write` wrote, with parts of this kind.

    Raises: OSError if it cannot be read; ValueError if it is something else.
    """
    return typed_json.decode(path.read_bytes(), Report[part], str(path))  # type: ignore[valid-type]


def builtins(found: Any) -> Any:
    """What JSON is made of; numbers of NumPy and paths become plain."""
    return msgspec.to_builtins(
        found, enc_hook=lambda value: value.item() if isinstance(value, np.generic) else str(value)
    )
