"""Whether CUDA's Multi-Process Service runs: without it, ranks that share a GPU take turns on it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import psutil

DAEMON = "nvidia-cuda-mps-control"
FOLDER = "/tmp/nvidia-mps"  # unless CUDA_MPS_PIPE_DIRECTORY names another
VARIABLE = "CUDA_MPS_PIPE_DIRECTORY"


def state(environment: Mapping[str, str] = os.environ) -> str:
    """What can be seen of it from here, in words."""
    processes = [each.info["pid"] for each in psutil.process_iter(["pid", "name"]) if each.info["name"] == DAEMON]
    control = Path(environment.get(VARIABLE) or FOLDER) / "control"
    if processes and control.exists():
        return f"runs: {DAEMON} is process {processes[0]}, its pipe is {control}"
    if processes:
        return (
            f"does not serve these ranks: {DAEMON} is process {processes[0]}, but there is no {control}; see {VARIABLE}"
        )
    if control.exists():
        return f"unknown: there is {control}, but no {DAEMON} that can be seen; it may be outside of this container"
    return "does not run: ranks that share a GPU take turns on it"
