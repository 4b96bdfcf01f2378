"""What a sweep is asked to do: the command line, read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hpcdist.algorithms import ALLREDUCE, SHARED, layered
from hpcdist.device.host import CPU
from hpcdist.device.paths import AUTO
from hpcdist.kernels.reduce import DTYPES
from hpcdist.sweep.measure import Effort, Point, refused
from hpcdist.sweep.record import LIBRARY, figure_paths


@dataclass(frozen=True)
class Options:
    """One field per option; the help of `hpcdist sweep` says what each means."""

    algorithms: tuple[str, ...]
    library: bool
    min_bytes: int
    max_bytes: int
    step_factor: int
    dtype: tuple[str, ...]
    op: tuple[str, ...]
    segment_bytes: tuple[int, ...]
    timing: str
    time_limit: float
    samples: int
    iterations: int
    warmup: int
    check: bool
    seed: int
    format: str
    json: Path | None
    csv: Path | None
    figure: Path | None
    tune: Path | None
    explain: bool
    library_algorithms: bool = False
    device: str = CPU
    path: tuple[str, ...] = (AUTO,)

    def sensible(self, topology: Sequence[int]) -> Options:
        """The same without hierarchical, if all algorithms are to be measured and it is but one of the others here."""
        if layered(topology) or set(self.algorithms) != {*ALLREDUCE, SHARED}:
            return self
        return replace(self, algorithms=tuple(name for name in self.algorithms if name != "hierarchical"))

    @property
    def names(self) -> tuple[str, ...]:
        """All that is measured: our algorithms, then the library."""
        ours = tuple(name for name in self.algorithms if name != LIBRARY)
        return (*ours, LIBRARY) if self.library else ours

    @property
    def segments(self) -> tuple[int | None, ...]:
        """Bytes of a segment to measure with; None is the executor's choice."""
        return self.segment_bytes or (None,)

    @property
    def effort(self) -> Effort:
        """How much to measure per case."""
        return Effort(self.timing, self.samples, self.iterations, self.time_limit, self.warmup)

    def points(self) -> list[Point]:
        """All types, operations and sizes, the sizes of each in ascending order."""
        dtypes = [np.dtype(DTYPES[name]) for name in self.dtype]
        return [Point(count, dtype, op) for dtype in dtypes for op in self.op for count in self._counts(dtype)]

    def _counts(self, dtype: np.dtype) -> Iterable[int]:
        """Sizes in whole elements, one at the least."""
        nbytes, counts = self.min_bytes, []
        while nbytes <= self.max_bytes:
            counts.append(max(1, nbytes // dtype.itemsize))
            nbytes *= self.step_factor
        return dict.fromkeys(counts)

    @property
    def nothing_to_measure(self) -> bool:
        """Whether no algorithm that was asked for can be measured at any point."""
        points = self.points()
        names = (*self.names, LIBRARY) if self.library_algorithms else self.names
        return all(refused(name, point) for name in names for point in points)

    @property
    def files(self) -> list[Path]:
        """All files to write."""
        figures = figure_paths(self.figure) if self.figure else []
        return [*filter(None, (self.json, self.csv, self.tune)), *figures]

    @property
    def named_twice(self) -> Path | None:
        """A file that is to be written twice, the second time over the first, or None."""
        resolved = [path.resolve() for path in self.files]
        return next((path for path in resolved if resolved.count(path) > 1), None)

    def problem_with_files(self) -> str | None:
        """Why a file that was asked for cannot be written, or None; missing folders are made."""
        for path in self.files:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                return f"{path} cannot be written: {error}"
            if not os.access(path.parent, os.W_OK):
                return f"{path} cannot be written: {path.parent} is not writable"
        return None

    def as_json(self) -> dict[str, Any]:
        """The options as JSON holds them."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
