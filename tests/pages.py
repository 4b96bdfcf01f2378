"""Pages in Markdown as tests: their commands are run, and what they print has the form that the page shows.

A block ```console has lines `$ command`, each followed by what it prints; a line that ends in a backslash goes on in
the next. All commands of a page run in one directory, in which lie the repository's job scripts and the Python blocks
that name a file in their first line (`# average.py`). Other Python blocks are one program, which runs on 2 ranks.

Two lines have the same form if they differ in numbers only. `...` stands for any number of lines, at the end of a line
for its rest. A block ```console cluster runs where hosts can be made, ```console slurm inside of a Slurm on them;
whatever has another language is not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HPCDIST = str(Path(sys.executable).with_name("hpcdist"))
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "hpcdist").glob("*/README.md")), *sorted(ROOT.glob("jobscripts/*.md"))]
BLOCK = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![A-Za-z0-9_.])[-+]?\d+(\.\d+)?([eE][-+]?\d+)?")
FILE = re.compile(r"# (\S+\.py)\n")
LIMIT = 120  # seconds for a command


@dataclass(frozen=True)
class Command:
    """A command of a page, and the lines that it is said to print."""

    line: int
    text: str
    prints: tuple[str, ...]


def blocks(page: Path, language: str, where: str | None = None) -> Iterator[tuple[int, str]]:
    """(line, text) of each block of a language, and of a kind of console."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        if (found[1], found[2]) == (language, where):
            yield text[: found.start()].count("\n") + 2, found[3]


def commands(page: Path, where: str | None = None) -> Iterator[Command]:
    """The commands of a page, in order."""
    for first, text in blocks(page, "console", where):
        joined = re.sub(r"\s*\\\n\s*", " \0", text)
        line = first
        for part in re.split(r"^\$ ", joined, flags=re.MULTILINE)[1:]:
            command, *prints = part.rstrip("\n").split("\n")
            yield Command(line, re.sub(r"\s+#.*", "", command.replace("\0", "")), tuple(prints))
            line += len(prints) + 1 + command.count("\0")


def programs(page: Path) -> tuple[dict[str, str], str]:
    """The Python blocks of a page: (file -> text, all that name no file as one program)."""
    texts = [text for _, text in blocks(page, "python")]
    files = {found[1]: text for text in texts if (found := FILE.match(text))}
    return files, "\n".join(text for text in texts if not FILE.match(text))


def prepare(page: Path, folder: Path) -> None:
    """Lay what a page's commands want into a directory."""
    (folder / "jobscripts").symlink_to(ROOT / "jobscripts")
    files, rest = programs(page)
    for name, text in files.items():
        (folder / name).write_text(text)
    if rest:
        (folder / "snippets.py").write_text(rest)


def run(command: str, folder: Path, environment: dict[str, str] | None = None) -> str:
    """What a command prints; it must succeed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, f"{command}\nexit code {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def cluster_of_pages() -> Iterator[None]:
    """The cluster without a name, which pages make, is ours in the block; ended if they have not."""
    status = [HPCDIST, "cluster", "status", "--name", "hpcdist"]
    if subprocess.run(status, capture_output=True, check=False).returncode == 0:
        pytest.skip("somebody's cluster of that name is up")
    try:
        yield
    finally:
        subprocess.run([HPCDIST, "cluster", "down"], capture_output=True, check=False)


def form(line: str) -> str:
    """A line without its numbers, and without how far they are apart."""
    return re.sub(r"\s+", " ", NUMBER.sub("#", line)).strip()


def missing(prints: tuple[str, ...], output: str) -> str | None:
    """The first line of a page that a command does not print where the page has it; None if it prints all."""
    lines = [form(line) for line in output.splitlines()]
    at, anywhere = 0, False
    for wanted in prints:
        if wanted.strip() == "...":
            anywhere = True
            continue
        places = range(at, len(lines)) if anywhere else range(at, min(at + 1, len(lines)))
        found = next((place for place in places if _same(form(wanted), lines[place])), None)
        if found is None:
            return wanted
        at, anywhere = found + 1, False
    return None if anywhere or at == len(lines) or not prints else "(nothing more)"


def _same(wanted: str, line: str) -> bool:
    return line.startswith(wanted[:-3].rstrip()) if wanted.endswith("...") else line == wanted


def check(page: Path, folder: Path, where: str | None = None) -> None:
    """Run all commands of a page, and see that each prints what the page says."""
    environment: dict[str, str] = {}
    for command in commands(page, where):
        place = f"{page.relative_to(ROOT)}:{command.line}"
        if exported := re.fullmatch(r"export (\w+)=(\S+)", command.text):
            environment[exported[1]] = exported[2]
            continue
        output = run(command.text, folder, environment)
        lacking = missing(command.prints, output)
        assert lacking is None, f"{place}: $ {command.text}\nthe page says: {lacking}\nit prints:\n{output}"
