"""Which samples belong to which step and rank.

The order of an epoch is a function of (seed, epoch), and the batch of a step a slice of it. So the position
in the data is the number of the step, whatever the number of ranks: together the ranks always take the same
samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import xxhash


def part(count: int, rank: int, size: int) -> slice:
    """Near-equal part of `count` items for `rank` of `size`; empty for some if there are more ranks."""
    return slice(count * rank // size, count * (rank + 1) // size)


@lru_cache(maxsize=2)
def permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    """Order int64 [count] of the samples in `epoch`; read-only."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


@dataclass(frozen=True)
class Sampler:
    """Cuts an epoch of `count` samples into steps of `batch` samples; the last of them may be smaller."""

    count: int
    batch: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every sample is used once."""
        return -(-self.count // self.batch)

    def position(self, step: int) -> tuple[int, int]:
        """Epoch of `step`, and its place in the epoch; both count from 0."""
        return divmod(step, self.steps_per_epoch)

    def indices(self, step: int) -> np.ndarray:
        """All samples int64 [<= batch] of `step`."""
        epoch, place = self.position(step)
        return permutation(self.count, self.seed, epoch)[place * self.batch : (place + 1) * self.batch]

    def random_state(self, step: int) -> dict[str, int | str]:
        """All that the random numbers of `step` come from, and a digest of what they came out as.

        NumPy may change its streams from release to release; the digest shows it.
        """
        epoch, _ = self.position(step)
        order = permutation(self.count, self.seed, epoch)
        return {"seed": self.seed, "epoch": epoch, "permutation": xxhash.xxh64_hexdigest(order.data)}
