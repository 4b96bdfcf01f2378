"""A sweep of a few milliseconds, for tests of what it does."""

from hpcdist.sweep.options import Options


def options(**changes):
    """The options of a sweep of a few milliseconds."""
    return Options(
        **{
            "algorithms": ("ring", "recursive_doubling"),
            "library": True,
            "min_bytes": 8,
            "max_bytes": 128,
            "step_factor": 4,
            "dtype": ("float32",),
            "op": ("sum",),
            "segment_bytes": (),
            "timing": "pipelined",
            "time_limit": 0.001,
            "samples": 3,
            "iterations": 2,
            "warmup": 1,
            "check": True,
            "seed": 0,
            "format": "nccl",
            "json": None,
            "csv": None,
            "figure": None,
            "tune": None,
            "explain": False,
            **changes,
        }
    )
