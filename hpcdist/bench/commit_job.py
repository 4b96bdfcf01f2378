"""What the ranks of a commit do, with nothing of hpcdist but `plan`: `commit_job.py FOLDER TASK`.

FOLDER holds the package of that commit. See `ranks` and `cases`, which do the same with all libraries.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

TILE = 65521
SMALL = -100  # power of 2 of the numbers that are timed

comm = MPI.COMM_WORLD


def fill(buffer: NDArray, tile: NDArray) -> None:
    """Write the tile into the buffer, again and again."""
    whole = buffer.size // TILE * TILE
    buffer[:whole].reshape(-1, TILE)[:] = tile
    buffer[whole:] = tile[: buffer.size - whole]


def wrong(buffer: NDArray, tile: NDArray) -> int:
    """Elements of all ranks that are not those which `fill` would have written."""
    whole = buffer.size // TILE * TILE
    head = np.count_nonzero(buffer[:whole].reshape(-1, TILE) != tile)
    return comm.allreduce(int(head + np.count_nonzero(buffer[whole:] != tile[: buffer.size - whole])))


def sample(call: Callable[[], object], iterations: int) -> float:
    """Seconds per call of the slowest rank, for calls back to back after a barrier."""
    comm.Barrier()
    began = time.perf_counter()
    for _ in range(iterations):
        call()
    return comm.allreduce((time.perf_counter() - began) / iterations, MPI.MAX)


def drain(rate: int, bucket: int) -> None:
    """Wait until the token buckets of all links are full, then empty them: twice their depth to a neighbour."""
    full = np.ones(2 * bucket, np.uint8)
    comm.Barrier()
    time.sleep(bucket * 8 / rate)
    comm.Barrier()
    comm.Sendrecv(full, (comm.rank + 1) % comm.size, recvbuf=np.empty_like(full), source=(comm.rank - 1) % comm.size)


def measure(plan: Callable[..., Any], nbytes: int, task: dict[str, Any]) -> dict[str, Any]:
    """One size, checked and timed; a case is an algorithm."""
    began = time.monotonic()
    own = np.random.default_rng(comm.rank).integers(1, (1 << 24) // comm.size, TILE).astype(np.float32)
    total, small = comm.allreduce(own), np.ldexp(own, SMALL)
    buffer = np.empty(nbytes // 4, np.float32)
    plans = {name: plan(comm, buffer, algorithm=name) for name in task["cases"]}
    found, first = {}, []
    for name, call in plans.items():
        fill(buffer, own)
        call()
        found[name] = wrong(buffer, total)
        fill(buffer, small)
        first.append(sample(call, 1))
    fitting = int(task["seconds"] / max(first))
    samples = max(task["least"], min(task["most"], fitting))
    iterations = max(1, min(task["iterations"], fitting // samples))
    times: dict[str, list[float]] = {name: [] for name in plans}
    for number in range(task["turn"], task["turn"] + samples):
        for name in list(plans)[:: -1 if number % 2 else 1]:
            fill(buffer, small)
            if task["link"]:
                drain(**task["link"])
            times[name].append(sample(plans[name], iterations))
    for each in plans.values():
        each.close()
    return {
        "nbytes": nbytes,
        "samples": samples,
        "times": times,
        "wrong": found,
        "cores": {},
        "refill": {},
        "predicted": {},
        "chosen": next(iter(plans.values())).algorithm,
        "seconds": time.monotonic() - began,
    }


def main(folder: str, path: str) -> None:
    """Measure all sizes; rank 0 writes after each."""
    sys.path.insert(0, folder)
    import hpcdist

    assert Path(hpcdist.__file__).is_relative_to(folder)
    with open(path) as file:
        task = json.load(file)
    found: dict[str, Any] = {"machine": {}, "rows": [], "missing": []}
    gc.disable()
    measure(hpcdist.plan, 8, {**task, "most": 1, "least": 1})  # compiles what is not compiled yet
    for nbytes in task["sizes"]:
        found["rows"].append(measure(hpcdist.plan, nbytes, task))
        if comm.rank == 0:
            with open(f"{task['out']}.new", "w") as file:
                json.dump(found, file)
            os.replace(f"{task['out']}.new", task["out"])


if __name__ == "__main__":
    main(*sys.argv[1:])
