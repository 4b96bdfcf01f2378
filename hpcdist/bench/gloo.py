"""torch.distributed's all-reduce through Gloo, for a Python that has torch and not this package: `gloo.py TASK`.

RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say who we are. See `ranks` and `cases`, which do the same with MPI.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

TILE = 65521
SMALL, MOST = -100, 190  # powers of 2: of the numbers that are timed, and how often they may be doubled
PATIENCE = timedelta(minutes=10)

Call = Callable[[], object]


def tile(rank: int) -> torch.Tensor:
    """A rank's numbers: integers whose sum over the ranks is exact."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(1, (1 << 24) // dist.get_world_size(), (TILE,), generator=generator).float()


def fill(buffer: torch.Tensor, numbers: torch.Tensor) -> None:
    """Write the numbers into the buffer, again and again."""
    whole = buffer.numel() // TILE * TILE
    buffer[:whole].view(-1, TILE)[:] = numbers
    buffer[whole:] = numbers[: buffer.numel() - whole]


def wrong(buffer: torch.Tensor, numbers: torch.Tensor) -> int:
    """Elements that are not those which `fill` would have written."""
    whole = buffer.numel() // TILE * TILE
    head = (buffer[:whole].view(-1, TILE) != numbers).sum()
    return int(head + (buffer[whole:] != numbers[: buffer.numel() - whole]).sum())


def together(value: float, op: dist.ReduceOp.RedOpType) -> float:
    """One number of all ranks."""
    numbers = torch.tensor([value], dtype=torch.float64)
    dist.all_reduce(numbers, op)
    return float(numbers[0])


def sample(call: Call, iterations: int) -> tuple[float, float]:
    """(when it began, seconds per call of the slowest rank), for calls back to back after a barrier."""
    dist.barrier()
    began = time.perf_counter()
    for _ in range(iterations):
        call()
    return began, together((time.perf_counter() - began) / iterations, dist.ReduceOp.MAX)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep Python's garbage collector out of the samples."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def drain(link: dict[str, int]) -> None:
    """Wait until the token buckets of all links are full, then empty them: twice their depth to each neighbour."""
    rank, size = dist.get_rank(), dist.get_world_size()
    out, into = torch.ones(2 * link["bucket"], dtype=torch.uint8), torch.empty(2 * link["bucket"], dtype=torch.uint8)
    dist.barrier()
    time.sleep(link["bucket"] * 8 / link["rate"])
    dist.barrier()
    pending = [dist.isend(out, (rank + 1) % size), dist.irecv(into, (rank - 1) % size)]
    for each in pending:
        if each:
            each.wait()


class Cores:
    """How busy the cores of this machine were while in the context, all times together."""

    def __init__(self) -> None:
        self.total = self.waiting = 0

    def __enter__(self) -> None:
        self.before = self._ticks()

    def __exit__(self, *exception: object) -> None:
        spent = [after - before for after, before in zip(self._ticks(), self.before, strict=True)]
        self.total += sum(spent)
        self.waiting += spent[3] + spent[4]  # idle, and idle while a disk works

    @staticmethod
    def _ticks() -> list[int]:
        with open("/proc/stat") as file:
            return [int(word) for word in file.readline().split()[1:9]]


def measure(nbytes: int, task: dict[str, Any]) -> dict[str, Any]:
    """One size, checked and timed."""
    began = time.monotonic()
    buffer = torch.ones(max(1, nbytes // 4))
    target = torch.ones_like(buffer)
    calls: dict[str, Call] = {"library": lambda: dist.all_reduce(buffer), "memcpy": lambda: target.copy_(buffer)}
    calls = {name: calls[name] for name in task["cases"] if name in calls}
    size = dist.get_world_size()
    own, total = tile(dist.get_rank()), torch.stack([tile(rank) for rank in range(size)]).sum(0)
    found = {}
    first = {}
    for name, call in calls.items():
        fill(buffer, own)
        _, first[name] = sample(call, 1)
        bad = wrong(buffer, total) if name == "library" else wrong(target, own)
        found[name] = int(together(bad, dist.ReduceOp.SUM))
    samples, iterations = share_out(calls, first, task, buffer, own)
    times, cores, refill = sampled(calls, samples, iterations, task, buffer, own)
    return {
        "nbytes": nbytes,
        "samples": samples,
        "times": times,
        "wrong": found,
        "cores": cores,
        "refill": refill,
        "chosen": "",
        "seconds": time.monotonic() - began,
    }


def share_out(
    calls: dict[str, Call], first: dict[str, float], task: dict[str, Any], buffer: torch.Tensor, own: torch.Tensor
) -> tuple[int, int]:
    """Warm up, and choose how many samples of how many calls there is time for, the same for all."""
    most = int(MOST / max(1.0, (dist.get_world_size() - 1).bit_length()))
    numbers, iterations = [], []
    for name, call in calls.items():
        fill(buffer, torch.ldexp(own, torch.tensor(SMALL)))
        warm = [sample(call, 1)[1] for _ in range(task["warmup"])]
        fitting = int(task["seconds"] / max(min(warm, default=first[name]), 1e-7))
        samples = min(task["most"], max(1, fitting))
        numbers.append(samples)
        iterations.append(max(1, min(task["iterations"], most, fitting // samples)))
    return max(task["least"], min(numbers)), min(iterations)


def order(names: list[str], number: int) -> list[str]:
    """As `hpcdist.util.sampling.order`."""
    first = number // 2 % len(names)
    rotated = names[first:] + names[:first]
    return rotated[::-1] if number % 2 else rotated


def sampled(
    calls: dict[str, Call],
    samples: int,
    iterations: int,
    task: dict[str, Any],
    buffer: torch.Tensor,
    own: torch.Tensor,
) -> tuple[dict[str, list[float]], dict[str, float], dict[str, float]]:
    """(times of all cases, which take turns; busy cores and bytes refilled, on virtual hosts only)."""
    small, names, link = torch.ldexp(own, torch.tensor(SMALL)), list(calls), task["link"]
    times: dict[str, list[float]] = {name: [] for name in names}
    idle: dict[str, list[float]] = {name: [] for name in names}
    cores = {name: Cores() for name in names}
    for number in range(samples):
        with collector_paused():
            for name in order(names, task["turn"] + number):
                fill(buffer, small)
                if link:
                    drain(link)
                emptied = time.perf_counter()
                with cores[name]:
                    began, seconds = sample(calls[name], iterations)
                times[name].append(seconds)
                idle[name].append(together(began - emptied, dist.ReduceOp.MAX))
    if not link:
        return times, {}, {}
    busy = {name: 1 - each.waiting / each.total for name, each in cores.items() if each.total}
    return times, busy, {name: refill(link, each) for name, each in idle.items()}


def refill(link: dict[str, int], idle: list[float]) -> float:
    """Bytes that a token bucket holds again so many seconds after it was emptied, the median."""
    return min(statistics.median(idle) * link["rate"] / 8, link["bucket"])


def main(path: str) -> None:
    """Measure all sizes; rank 0 writes after each."""
    with open(path) as file:
        task = json.load(file)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=PATIENCE)
    found: dict[str, Any] = {"machine": {}, "rows": [], "missing": []}
    for nbytes in task["sizes"]:
        found["rows"].append(measure(nbytes, task))
        if dist.get_rank() == 0:
            with open(f"{task['out']}.new", "w") as file:
                json.dump(found, file)
            os.replace(f"{task['out']}.new", task["out"])
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
