"""A child process that sends itself memory by MPI, so that only the child crashes if MPI cannot take it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

PATIENCE = 40.0  # seconds; a first use of CuPy takes several

# What a launcher tells its ranks. A child that kept it would take itself for one of them.
LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "HYDRA_", "HYDI_", "MPI_LOCAL", "SLURM_", "PALS_", "FLUX_")
KEPT = ("OMPI_MCA_pml", "OMPI_MCA_btl", "OMPI_MCA_mtl", "OMPI_MCA_opal", "OMPI_MCA_accelerator", "OMPI_MCA_smsc")

# A child's memory: `make` fills n bytes with 7, `right` looks whether all are.
DEVICE = """
import cupy
def make(n): return cupy.full(n, 7, cupy.uint8)
def empty(n): return cupy.zeros(n, cupy.uint8)
def ready(): cupy.cuda.get_current_stream().synchronize()
def right(x): return bool((x == 7).all())
"""
HOST = """
import numpy
def make(n): return numpy.full(n, 7, numpy.uint8)
def empty(n): return numpy.zeros(n, numpy.uint8)
def ready(): pass
def right(x): return bool((x == 7).all())
"""

# Sizes on both sides of any eager limit, and one that is pipelined.
PROGRAM = """
{memory}
from mpi4py import MPI
if MPI.COMM_WORLD.size != 1:
    raise SystemExit("the child took itself for a rank of its parent's job")
print("ready", flush=True)
for n in (8, 1 << 16, 1 << 24):
    out, into = make(n), empty(n)
    ready()
    MPI.COMM_SELF.Sendrecv(out, 0, 0, into, 0, 0)
    if not right(into):
        print("wrong", flush=True)
        break
else:
    print("moved", flush=True)
"""


@dataclass(frozen=True)
class Verdict:
    """Whether the memory was moved by MPI, None if that is not known, and how it was seen."""

    aware: bool | None
    how: str


def run(memory: str) -> Verdict:
    """Start a child with this kind of memory, as a job of its own, and wait for it."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(memory=memory)],
            env=alone(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Verdict(None, f"did not end within {PATIENCE:g} s")
    return interpret(done.returncode, done.stdout, done.stderr)


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which an MPI program is a job of one rank, with the same transports."""
    return {
        name: value for name, value in environment.items() if name.startswith(KEPT) or not name.startswith(LAUNCHERS)
    }


def interpret(code: int, output: str, errors: str) -> Verdict:
    """What a child's end means: only what happens between "ready" and its last word tells of MPI."""
    words = output.split()
    if code == 0 and "moved" in words:
        return Verdict(True, "8 B to 16 MiB arrived")
    if "wrong" in words:
        return Verdict(False, "other bytes arrived")
    if "ready" in words and code:
        return Verdict(False, f"it {_end(code)}")
    last = (errors.strip().splitlines() or ["no message"])[-1]
    return Verdict(None, f"{_end(code)} before it came to send: {last}")


def _end(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"exited with {code}"
