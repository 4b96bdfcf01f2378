"""Made-up records for the tests of what a sweep writes."""

import numpy as np

from hpcdist.sweep.record import Record, Times, bandwidths


def record(algorithm="ring", nbytes=1048576, placement="in_place", us=100.0, **fields):
    """A record of 8 ranks whose median time is `us` microseconds."""
    algbw, busbw = bandwidths(nbytes, us * 1e-6, fields.get("ranks", 8))
    made = {
        "algorithm": algorithm,
        "nbytes": nbytes,
        "count": nbytes // 4,
        "dtype": "float32",
        "op": "sum",
        "placement": placement,
        "ranks": 8,
        "nodes": 2,
        "segment_nbytes": 65536,
        "timing": "pipelined",
        "samples": 1,
        "iterations": 20,
        "times": Times.of(np.array([us * 1e-6])),
        "algbw": algbw,
        "busbw": busbw,
        "sent_bytes": 1.75 * nbytes,
        "sent_bytes_max": 1.75 * nbytes,
        "predicted_us": 90.0,
        "wrong": 0,
        "library": "Open MPI v5.0.0",
        "host": "n1",
        "command": "hpcdist sweep --algorithms ring",
    }
    return Record(**{**made, **fields})


def pair(algorithm="ring", nbytes=1048576, us=(100.0, 100.0), **fields):
    """Records of both placements."""
    return [
        record(algorithm, nbytes, placement, time, **fields)
        for placement, time in zip(("out_of_place", "in_place"), us, strict=True)
    ]
