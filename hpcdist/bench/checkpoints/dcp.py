"""torch.distributed.checkpoint, told what to do by lines of JSON, for a Python that has torch and not this package.

The first line says who we are; then each line is a command, and is answered by a line.
"""

from __future__ import annotations

import json
import mmap
import os
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import checkpoint

State = dict[str, torch.Tensor]


def mapped(folder: Path) -> State:
    """The arrays that the others save, in the same memory."""
    files = sorted(folder.iterdir())
    return {
        path.name: torch.from_file(str(path), shared=True, size=path.stat().st_size // 8, dtype=torch.int64)
        for path in files
    }


def save(state: State, path: str) -> dict[str, float]:
    """Save in the foreground."""
    dist.barrier()
    began = time.perf_counter()
    checkpoint.save(dict(state), storage_writer=checkpoint.FileSystemWriter(path))
    seconds = time.perf_counter() - began
    return {"blocking": seconds, "total": seconds}


def save_in_background(state: State, path: str) -> dict[str, float]:
    """Save in the background, and wait for it."""
    dist.barrier()
    began = time.perf_counter()
    pending = checkpoint.async_save(dict(state), storage_writer=checkpoint.FileSystemWriter(path))
    blocking = time.perf_counter() - began
    pending.result()
    return {"blocking": blocking, "total": time.perf_counter() - began}


def load(state: State, path: str, ranks: int) -> dict[str, Any]:
    """Load on the first `ranks` processes; the others have nothing to do."""
    group = dist.new_group(list(range(ranks)))
    if dist.get_rank() >= ranks:
        return {"seconds": 0.0, "equal": True}
    into = {name: torch.zeros_like(values) for name, values in state.items()}
    for values in into.values():
        values.fill_(1)  # so that the kernel finds the memory now
    dist.barrier(group)
    began = time.perf_counter()
    checkpoint.load(into, storage_reader=checkpoint.FileSystemReader(path), process_group=group)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "equal": all(torch.equal(into[name], state[name]) for name in state)}


COMMANDS: dict[str, Callable[..., dict[str, Any]]] = {
    "save": save,
    "save_in_background": save_in_background,
    "load": load,
}


def answer(state: State, line: str) -> dict[str, Any]:
    """Do what a line asks for; errors are answers, too."""
    command = json.loads(line)
    try:
        return COMMANDS[command.pop("do")](state, **command)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    """Answer until there are no more lines."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    who = json.loads(sys.stdin.readline())
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"tcp://{who['address']}:{who['port']}",
        rank=who["rank"],
        world_size=who["size"],
        timeout=timedelta(minutes=5),
    )
    state = mapped(Path(who["folder"]))
    for values in state.values():
        values[:: mmap.PAGESIZE // 8].sum()  # or the first save would pay for finding the memory
    print(json.dumps({"version": torch.__version__}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(state, line)), file=answers)


if __name__ == "__main__":
    main()
