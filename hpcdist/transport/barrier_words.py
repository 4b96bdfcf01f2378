"""What all barriers of a node have in common, with compiled code or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

READY, WRITTEN = "its input ready", "its part written"
ONE_LOOK = 1
AT = 1  # the field of a job of `barrier_flags` that says which rank is not known to be there
MANY_LOOKS = 3000  # at a flag; then Python and MPI get their turn


class Stage(Protocol):
    """A part of a run that can be begun and then gone on with, without blocking or for a while."""

    def begin(self) -> None:
        """Begin; does not wait."""

    def attempt(self, looks: int) -> bool:
        """Go on; whether it is complete. With ONE_LOOK it does not wait, with more it may."""

    def waits_for(self) -> str:
        """Who must do what before it goes on, in words."""

    def free(self) -> None:
        """Give up what it holds of MPI."""


def late(job: NDArray[np.int64], ranks: Sequence[int]) -> int:
    """The first rank of a job that is not known to be there."""
    return ranks[min(int(job[AT]), len(ranks) - 1)]
