"""Which algorithm "auto" means: the table that a sweep wrote, or else the price model.

A table is JSON, made by `hpcdist sweep --tune FILE` and given to a plan by its argument `selection` or by the
environment variable HPCDIST_SELECTION, which names the file:

    {"hpcdist_selection": 1,
     "rules": [{"size": 7, "nodes": 1, "dtype": "float32",
                "choose": [{"max_bytes": 4096, "algorithm": "recursive_doubling", "segment_nbytes": 0},
                           {"max_bytes": null, "algorithm": "ring", "segment_nbytes": 262144}]}],
     "model": {"alpha": 1.2e-06, "beta": 2e-10, "gamma": 1e-10},
     "provenance": {"command": "hpcdist sweep --tune FILE", "machine": {}, "date": "2026-01-31"}}

A rule speaks of `size` ranks on `nodes` nodes; of its choices the first with nbytes <= max_bytes holds, and
null is no bound. Its members "memory" ("host", or a kind of device such as "cuda") and "path" ("host", "staged",
"aware" or "direct") say where the buffers lie and how they travel; without them it speaks of host memory. Where no
rule speaks, the algorithm with the lowest predicted time is taken, by the table's own model if it has one.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpcdist.algorithms import ALLREDUCE, SHARED, allreduce, layered
from hpcdist.device.paths import AWARE, DIRECT, HOST, STAGED
from hpcdist.kernels.reduce import DTYPES
from hpcdist.schedule.ir import Schedule
from hpcdist.simulate import cost
from hpcdist.util import atomic_files
from hpcdist.util.sizes import format_bytes

ENVIRONMENT = "HPCDIST_SELECTION"
VERSION = 1
PATHS = (HOST, STAGED, AWARE, DIRECT)

# The model would take these for many large buffers. Measured over TCP, circulant was slower than a ring at some
# megabytes; trees are untried on the hundreds of ranks that they are for. A table may name them.
NOT_BY_PRICE = frozenset({"circulant", "double_binary_trees"})


@dataclass(frozen=True)
class Choice:
    """What "auto" stands for in one case, and why; a segment of None is left to the executor."""

    algorithm: str
    segment_nbytes: int | None
    why: str


@dataclass(frozen=True)
class Bracket:
    """One algorithm for all buffers of at most `max_bytes`, or of any size if that is None."""

    max_bytes: int | None
    algorithm: str
    segment_nbytes: int | None = None

    @property
    def bound(self) -> float:
        """The largest size it holds for."""
        return math.inf if self.max_bytes is None else self.max_bytes


@dataclass(frozen=True)
class Rule:
    """The brackets, in ascending order, for one number of ranks and nodes, one type, one kind of memory and path."""

    size: int
    nodes: int
    dtype: str
    choose: tuple[Bracket, ...]
    memory: str = HOST
    path: str = HOST


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
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
            return _table(_Place(str(path), "", document))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: no JSON ({error}); hpcdist sweep --tune writes such tables") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: no text ({error}); hpcdist sweep --tune writes such tables") from None
        except RecursionError:
            raise ValueError(f"{path}: nested too deeply; hpcdist sweep --tune writes such tables") from None

    def write(self, path: Path) -> None:
        """Put the table in a file that `load` reads, whole or not at all."""
        document = {
            "hpcdist_selection": VERSION,
            "rules": [asdict(rule) for rule in self.rules],
            "model": self.model.as_dict() if self.model else None,
            "provenance": self.provenance,
        }
        atomic_files.write_text(path, json.dumps(document, indent=1) + "\n")

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
        where, lying = f"{rule.size} ranks on {_nodes(rule.nodes)}", _lying(rule.memory, rule.path)
        return f"{self.path} says so for {where} and {rule.dtype}{stand_in} buffers {sizes}{lying}"


def resolve(
    table: Selection | str | os.PathLike[str] | None,
    size: int,
    topology: Sequence[int],
    dtype: str,
    nbytes: int,
    memory: str = HOST,
    path: str = HOST,
    bounced: bool = False,
) -> Choice:
    """What "auto" means in one case; the same on all ranks that read the same table.

    Args:
        table: a table or the path of one; None looks at HPCDIST_SELECTION.
        size: number of ranks.
        topology: node number of each rank.
        dtype: name of the elements' type.
        nbytes: bytes of the buffer.
        memory: where it lies, "host" or the kind of device.
        path: how it travels, of `PATHS`.
        bounced: whether it could pass through bounce buffers in shared memory (algorithm "shared").

    Raises:
        OSError, ValueError: if the table cannot be read; see `Selection.load`.
        TypeError: if it is neither a table nor a path.
    """
    if not isinstance(table, Selection | str | os.PathLike | None):
        raise TypeError(f"a selection is a Selection, the path of its file, or None; {table!r:.60} is none of these")
    table = table or os.environ.get(ENVIRONMENT)
    if not table:
        return _without_rule(size, topology, nbytes, cost.DEFAULT, bounced)
    selection = table if isinstance(table, Selection) else Selection.load(table)
    nodes = len(set(topology))
    choice = selection.choose(size, nodes, dtype, nbytes, memory, path)
    if choice and (choice.algorithm.partition(":")[0] != SHARED or bounced or path == DIRECT):
        return choice
    other = _without_rule(size, topology, nbytes, selection.model or cost.DEFAULT, bounced)
    missing = f"{selection.path} has no rule for {size} ranks on {_nodes(nodes)} and {dtype}{_lying(memory, path)}"
    if choice:
        missing = f"{selection.path} says {choice.algorithm}, but there are no bounce buffers here"
    return Choice(other.algorithm, other.segment_nbytes, f"{missing}; {other.why}")


def _without_rule(size: int, topology: Sequence[int], nbytes: int, model: cost.Model, bounced: bool) -> Choice:
    if bounced:
        return Choice(SHARED, None, "all ranks are on one node, and the buffers pass through memory that they share")
    return choose_by_price(size, topology, nbytes, model)


def choose_by_price(size: int, topology: Sequence[int] | None, nbytes: int, model: cost.Model) -> Choice:
    """The algorithm of the lowest predicted time.

    Args:
        size: number of ranks.
        topology: node number of each rank, or None for one rank per node.
        nbytes: bytes of the buffer.
        model: alpha, beta and gamma, fitted by a sweep, or `cost.DEFAULT`.

    Returns:
        The choice, whose `why` lists the three lowest prices.
    """
    places = None if topology is None else tuple(topology)
    names = set(ALLREDUCE) - NOT_BY_PRICE - (set() if layered(places or ()) else {"hierarchical"})
    prices = []
    for name in sorted(names):
        with suppress(ValueError):  # an algorithm with too many transfers to price makes no sense at this size
            prices.append((cost.predict(_schedule(name, size, places), nbytes, model, places), name))
    prices.sort()
    best = ", ".join(f"{name} {seconds * 1e6:.4g} us" for seconds, name in prices[:3])
    why = f"lowest predicted time for {format_bytes(nbytes)} over {size} ranks: {best}"
    return Choice(prices[0][1], None, why)


@lru_cache(maxsize=256)
def _schedule(name: str, size: int, topology: tuple[int, ...] | None) -> Schedule:
    return allreduce(name, size, topology)


def _nodes(number: int) -> str:
    return f"{number} node" if number == 1 else f"{number} nodes"


def _lying(memory: str, path: str) -> str:
    """Where buffers lie, said only of those that are not in host memory."""
    return "" if memory == HOST else f" in {memory} memory, path {path}"


# --- reading a table: every error names the file and the place ---


@dataclass(frozen=True)
class _Place:
    """A value in a table's JSON and where it stands."""

    path: str
    key: str
    value: Any

    def __getitem__(self, name: str) -> _Place:
        """The member `name`; one that is missing reads as null."""
        self.require(isinstance(self.value, dict), "an object")
        return _Place(self.path, f"{self.key}.{name}".lstrip("."), self.value.get(name))

    def __iter__(self) -> Iterator[_Place]:
        self.require(isinstance(self.value, list), "a list")
        return (_Place(self.path, f"{self.key}[{i}]", item) for i, item in enumerate(self.value))

    def require(self, holds: bool, wanted: str) -> None:
        """Raise ValueError unless `holds`."""
        if not holds:
            raise ValueError(f"{self.path}: {self.key or 'table'}: expected {wanted}; found {self.value!r:.60}")

    @contextmanager
    def named(self) -> Iterator[None]:
        """Name the place in what others have to say about its value."""
        try:
            yield
        except ValueError as error:
            raise ValueError(f"{self.path}: {self.key}: {error}") from None

    def natural(self) -> int:
        """An integer of at least 0."""
        self.require(type(self.value) is int and self.value >= 0, "an integer of at least 0")
        return self.value

    def natural_or_null(self) -> int | None:
        """An integer of at least 0, or None."""
        return None if self.value is None else self.natural()

    def object_or_null(self) -> dict[str, Any] | None:
        """An object, or None."""
        self.require(self.value is None or isinstance(self.value, dict), "an object")
        return self.value

    def one_of(self, names: Sequence[str]) -> str:
        """One of some names."""
        self.require(self.value in names, f"one of {', '.join(names)}")
        return self.value

    def text_or(self, default: str) -> str:
        """A text; `default` if it is missing."""
        self.require(self.value is None or isinstance(self.value, str), "a text")
        return default if self.value is None else self.value

    def one_of_or(self, names: Sequence[str], default: str) -> str:
        """One of some names; `default` if it is missing."""
        return default if self.value is None else self.one_of(names)


def _table(place: _Place) -> Selection:
    version = place["hpcdist_selection"]
    version.require(
        type(version.value) is int and version.value == VERSION, f"{VERSION}, the version that this hpcdist reads"
    )
    return Selection(
        rules=tuple(map(_rule, place["rules"])),
        model=_model(place["model"]),
        provenance=place["provenance"].object_or_null() or {},
        path=place.path,
    )


def _rule(place: _Place) -> Rule:
    choose = place["choose"]
    brackets = tuple(map(_bracket, choose))
    choose.require(bool(brackets), "at least one choice")
    ascending = all(low.bound < high.bound for low, high in pairwise(brackets))
    choose.require(ascending, "max_bytes in ascending order, null at the end")
    return Rule(
        size=place["size"].natural(),
        nodes=place["nodes"].natural(),
        dtype=place["dtype"].one_of(tuple(DTYPES)),
        choose=brackets,
        memory=place["memory"].text_or(HOST),
        path=place["path"].one_of_or(PATHS, HOST),
    )


def _bracket(place: _Place) -> Bracket:
    algorithm = place["algorithm"]
    algorithm.require(isinstance(algorithm.value, str), "the name of an algorithm")
    with algorithm.named():
        allreduce(algorithm.value, 1)
    return Bracket(place["max_bytes"].natural_or_null(), algorithm.value, place["segment_nbytes"].natural_or_null())


def _model(place: _Place) -> cost.Model | None:
    fields = place.object_or_null()
    if fields is None:
        return None
    with place.named():
        return cost.Model.from_dict(fields)
