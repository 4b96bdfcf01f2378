"""A state with arrays of all kinds, the same wherever it is made."""

import numpy as np


def state():
    random = np.random.default_rng(7)
    return {
        "weights": random.random((1001, 257)).astype(np.float32),  # crosses many pieces, on no number of ranks evenly
        "bytes/of/two": random.random((70_001, 10)).astype(np.float16),
        "three": random.random((3, 50_000)),  # rows of more than a piece, and fewer than ranks
        "one": random.random((1, 5)).astype(np.float16),
        "steps": np.array(120),
        "none": np.empty((0, 3), np.float32),
        "nothing": np.empty((5, 0)),
        "order": np.arange(-50_000, 50_000),
        "columns": np.asfortranarray(random.random((40, 30))),
        "specials": np.array([np.nan, -0.0, np.inf, 5e-324]),
    }
