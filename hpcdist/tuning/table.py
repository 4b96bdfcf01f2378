"""The table that a sweep wrote: which algorithm is the fastest for so many ranks and bytes.

It is JSON, made by `hpcdist sweep --tune FILE` and given to a plan by its argument `selection` or by the
environment variable HPCDIST_SELECTION, which names the file:

    {"hpcdist_selection": 1,
     "rules": [{"size": 7, "nodes": 1, "dtype": "float32",
                "choose": [{"max_bytes": 4096, "algorithm": "recursive_doubling", "segment_nbytes": 0},
                           {"max_bytes": null, "algorithm": "ring", "segment_nbytes": 262144}]}],
     "model": {"alpha": 1.2e-06, "beta": 2e-10, "gamma": 1e-10},
     "provenance": {"command": "hpcdist sweep --tune FILE", "machine": {}, "date": "2026-01-31"}}

A rule speaks of `size` ranks on `nodes` nodes; of its choices the first with nbytes <= max_bytes holds, and
null is no bound. Its members "memory" ("host", or a kind of device such as "cuda") and "path" ("host", "staged",
"aware" or "peer") say where the buffers lie and how they travel; without them it speaks of host memory. Where no
rule speaks, the algorithm with the lowest predicted time is taken, by the table's own model if it has one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from hpcdist.algorithms import check
from hpcdist.device.paths import AWARE, HOST, PEER, STAGED
from hpcdist.kernels.reduce import DTYPES
from hpcdist.simulate import cost
from hpcdist.util import atomic_files, typed_json
from hpcdist.util.sizes import format_bytes

PATHS = (HOST, STAGED, AWARE, PEER)
Natural = Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True)
class Choice:
    """What "auto" stands for in one case, and why; a segment of None is left to the executor."""

    algorithm: str
    segment_nbytes: int | None
    why: str


class Bracket(msgspec.Struct, frozen=True):
    """One algorithm for all buffers of at most `max_bytes`, or of any size if that is None."""

    max_bytes: Natural | None
    algorithm: str
    segment_nbytes: Natural | None = None

    @property
    def bound(self) -> float:
        """The largest size it holds for."""
        return math.inf if self.max_bytes is None else self.max_bytes


class Rule(msgspec.Struct, frozen=True):
    """The brackets, in ascending order, for one number of ranks and nodes, one type, one kind of memory and path."""

    size: Natural
    nodes: Natural
    dtype: str
    choose: Annotated[tuple[Bracket, ...], msgspec.Meta(min_length=1)]
    memory: str = HOST
    path: str = HOST

    def problems(self) -> Iterator[tuple[str, str]]:
        """Where something is wrong, and what: what its types do not tell."""
        for name, value, known in (("dtype", self.dtype, DTYPES), ("path", self.path, PATHS)):
            if value not in known:
                yield name, f"expected one of {', '.join(known)}; found {value!r}"
        if not all(low.bound < high.bound for low, high in pairwise(self.choose)):
            yield "choose", "expected max_bytes in ascending order, null at the end"
        for number, bracket in enumerate(self.choose):
            try:
                check(bracket.algorithm)
            except ValueError as error:
                yield f"choose[{number}].algorithm", str(error)


@dataclass(frozen=True)
class Selection:
    """A selection table, with the model fitted by the sweep that wrote it and where it comes from."""

    rules: tuple[Rule, ...]
    model: cost.Model | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    path: str = "the selection table"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read a table.

        Raises:
            OSError: if there is no such file, or it cannot be read.
            ValueError: if it is no such table; the message names the file, the key and what it expected.
        """
        text = Path(path).read_bytes()
        try:
            return _parsed(text, str(path))
        except ValueError as error:
            raise ValueError(f"{error}; hpcdist sweep --tune writes such tables") from None

    def write(self, path: Path) -> None:
        """Put the table in a file that `load` reads, whole or not at all."""
        model = self.model.as_dict() if self.model else None
        document = msgspec.to_builtins(_Document(1, self.rules, model, self.provenance))
        atomic_files.write_text(path, typed_json.text(document))

    def choose(
        self, size: int, nodes: int, dtype: str, nbytes: int, memory: str = HOST, path: str = HOST
    ) -> Choice | None:
        """The choice of the first bracket that holds, or None if no rule speaks of this case.

        A rule for the same `size`, `nodes` and `dtype` comes first, then one for a type of the same width,
        which is no different on the wire. Rules for other memory or another path never count.
        """
        for rule in self._rules_for(size, nodes, dtype, memory, path):
            for bracket in rule.choose:
                if nbytes <= bracket.bound:
                    return Choice(bracket.algorithm, bracket.segment_nbytes, self._why(rule, bracket, dtype))
        return None

    def _rules_for(self, size: int, nodes: int, dtype: str, memory: str, path: str) -> list[Rule]:
        width, wanted = DTYPES[dtype].itemsize, (size, nodes, memory, path)
        alike = [rule for rule in self.rules if (rule.size, rule.nodes, rule.memory, rule.path) == wanted]
        return sorted(
            (rule for rule in alike if rule.dtype == dtype or DTYPES[rule.dtype].itemsize == width),
            key=lambda rule: rule.dtype != dtype,
        )

    def _why(self, rule: Rule, bracket: Bracket, dtype: str) -> str:
        sizes = "of any size" if bracket.max_bytes is None else f"up to {format_bytes(bracket.max_bytes)}"
        stand_in = "" if rule.dtype == dtype else f", of the same width as {dtype},"
        where, memory = f"{rule.size} ranks on {nodes_in_words(rule.nodes)}", memory_in_words(rule.memory, rule.path)
        return f"{self.path} says so for {where} and {rule.dtype}{stand_in} buffers {sizes}{memory}"


def nodes_in_words(number: int) -> str:
    """A number of nodes."""
    return f"{number} node" if number == 1 else f"{number} nodes"


def memory_in_words(memory: str, path: str) -> str:
    """Where buffers lie, said only of those that are not in host memory."""
    return "" if memory == HOST else f" in {memory} memory, path {path}"


# --- reading ---


class _Document(msgspec.Struct):
    """A table's JSON."""

    hpcdist_selection: Literal[1]
    rules: tuple[Rule, ...]
    model: dict[str, Any] | None = None
    provenance: dict[str, Any] | None = None


def _parsed(text: str | bytes, path: str) -> Selection:
    document = typed_json.decode(text, _Document, path)
    for number, rule in enumerate(document.rules):
        for place, problem in rule.problems():
            raise ValueError(f"{path}: rules[{number}].{place}: {problem}")
    try:
        model = None if document.model is None else cost.Model.from_dict(document.model)
    except ValueError as error:
        raise ValueError(f"{path}: model: {error}") from None
    return Selection(document.rules, model, document.provenance or {}, path)
