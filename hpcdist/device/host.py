"""Host memory by the calls of a device, for code that works in either."""

from __future__ import annotations

import numpy as np
from numpy.typing import DTypeLike, NDArray

CPU = "cpu"


class Host:
    """The processor and its memory: arrays are where they are put, and where they are got from."""

    kind, name = CPU, "the processor"

    def empty(self, count: int, dtype: DTypeLike) -> NDArray:
        """Flat memory."""
        return np.empty(count, dtype)

    def put(self, values: NDArray) -> NDArray:
        """The array itself."""
        return values

    def get(self, array: NDArray) -> NDArray:
        """The array itself."""
        return array
