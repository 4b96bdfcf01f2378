"""Reports as Markdown: a head that says how all parts came about, tables, and a foot with what is missing or wrong."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from hpcdist.bench.saved import Part, Report
from hpcdist.util.sampling import Spread, digits


def page(
    title: str,
    report: Report,
    body: Iterable[str],
    right: str,
    notes: Callable[[str], str] = lambda part: "",
) -> str:
    """A whole report.

    Args:
        title: Of all.
        report: Whose parts the head and the foot tell of.
        body: The lines between them.
        right: What is said at the end if nothing is wrong.
        notes: What the head says of a part beside how it came about.
    """
    return "\n".join([*_head(title, report, notes), *body, *foot(report, right)]) + "\n"


def _head(title: str, report: Report, notes: Callable[[str], str]) -> Iterator[str]:
    yield from [f"# {title}", ""]
    for command, parts in groupby(report.parts.items(), key=lambda item: shlex.join(item[1].command)):
        yield from [f"    {command}", "", *(f"- {name}: {_how(part)}{notes(name)}." for name, part in parts), ""]


def _how(part: Part) -> str:
    took = f"{part.seconds / 60:.0f} minutes" if part.seconds else ""
    return ", ".join(filter(None, [part.start_time, took, *_machine(part.machine), *part.software()]))


def _machine(machine: Mapping[str, Any]) -> Iterator[str]:
    """What is known of it, in words."""
    devices = machine.get("devices", {})
    yield from (f"{number} x {name}" for name, number in devices.get("names", {}).items())
    yield from (f"{name} {number}" for name, number in devices.get("versions", {}).items())
    if "cpu" in machine:
        yield f"{machine['cores_per_host']} cores of {machine['cpu']}"
    if "file_system" in machine:
        yield machine["file_system"]
    if "mps" in machine:
        yield f"CUDA's Multi-Process Service {machine['mps']}"


def foot(report: Report, right: str) -> Iterator[str]:
    """What is missing, and what is wrong, or that nothing is."""
    if report.missing:
        yield from ["## Missing", "", *(f"- {what}" for what in report.missing), ""]
    if report.wrong:
        yield from ["## WRONG", "", *(f"- {what}" for what in report.wrong), ""]
    elif report.rows:
        yield right


def rows(head: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table, and an empty line."""
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    yield from (f"| {' | '.join(line)} |" for line in lines)
    yield ""


def picture(title: str, file: str | None) -> list[str]:
    """A figure, if there is one."""
    return [f"![{title}]({file})", ""] if file else []


def percent(share: Spread, decimals: int = 0) -> str:
    """Median and range of a part of a whole."""
    median, low, high = (f"{100 * value:.{decimals}f}" for value in (share.median, share.low, share.high))
    return f"{median} % ({low} to {high})"


def milliseconds(seconds: Spread) -> str:
    """Median and range."""
    return f"{digits(1e3 * seconds.median)} ({digits(1e3 * seconds.low)}-{digits(1e3 * seconds.high)})"
