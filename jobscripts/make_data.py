"""A data set of one's own for `hpcdist train`: four arrays in an HDF5 file.

python jobscripts/make_data.py rings.h5
hpcdist run -n 4 -- hpcdist train --data rings.h5 --epochs 3

Replace `samples` by what you have; a file that does not fit into memory can be written block by block.
"""

import sys

import h5py
import numpy as np


def samples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of the plane, of which each of three rings is a class: x [count, 2] float32, y [count] int64."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=count)
    radius, angle = y + 1 + 0.2 * rng.standard_normal(count), rng.uniform(0, 2 * np.pi, count)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), y


with h5py.File(sys.argv[1], "w") as file:
    for part, count in (("train", 3000), ("test", 600)):
        file[f"{part}/x"], file[f"{part}/y"] = samples(count, seed=count)
