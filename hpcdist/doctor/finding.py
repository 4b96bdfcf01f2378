"""What the doctor found: a level, a name, what there is, why it matters, what to do."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OK, WARN, FAIL, SKIP = "ok", "warn", "fail", "skip"
LEVELS = (OK, WARN, FAIL, SKIP)

WIDTH = 112  # of a line, in characters
INDENT = 6 + 17  # of the level and the name before what was found


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: OK, WARN, FAIL, or SKIP for what could not be looked at.
        name: of the thing, in a word or two.
        found: what there is, with numbers and ranks or hosts.
        why: why it matters; empty where all is well.
        todo: what to do; empty where all is well.
    """

    level: str
    name: str
    found: str
    why: str = ""
    todo: str = ""

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"there is no level {self.level!r}; choose from {', '.join(LEVELS)}")

    def __str__(self) -> str:
        """The finding for people: what is well takes one line."""
        first = _wrapped(self.found, f"{self.level:<6}{self.name:<{INDENT - 7}} ")
        more = [
            _wrapped(text, f"{'':{INDENT}}{head:<5}") for head, text in (("why", self.why), ("do", self.todo)) if text
        ]
        return "\n".join([*first, *(line for lines in more for line in lines)])


def _wrapped(text: str, head: str) -> list[str]:
    """`text` behind `head`, its further lines below its first; paths and commands are never cut."""
    space = " " * len(head)
    return textwrap.wrap(
        text, WIDTH, initial_indent=head, subsequent_indent=space, break_long_words=False, break_on_hyphens=False
    )


def summary(findings: Sequence[Finding]) -> str:
    """The last line of a report."""
    count = Counter(finding.level for finding in findings)
    words = {OK: "ok", WARN: "to look at", FAIL: "failed", SKIP: "skipped"}
    return f"{len(findings)} findings: " + ", ".join(f"{count[level]} {word}" for level, word in words.items())


def listing(names: Iterable[object], most: int = 6) -> str:
    """Names in words, not too many: "n1, n2 and 30 more"."""
    all_names = [str(name) for name in dict.fromkeys(names)]
    if len(all_names) <= most + 1:
        return ", ".join(all_names)
    return f"{', '.join(all_names[:most])} and {len(all_names) - most} more"


def plural(count: int, noun: str) -> str:
    """A count in words: "1 rank", "3 ranks"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"
