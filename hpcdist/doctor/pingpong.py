"""Messages between two ranks, there and back: how long a small one takes, how many bytes large ones move."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import numpy as np
from mpi4py import MPI

from hpcdist.doctor.job import Job

SMALL = 8  # bytes
FIRST, LARGEST = 1 << 18, 1 << 24  # bytes of the growing messages
BATCH, BATCHES = 10, 20  # messages there and back, and how often
LONG = 0.15  # seconds: messages grow until one takes so long there and back, and small ones are sent for so long


@dataclass(frozen=True)
class Link:
    """What was measured between two ranks: latency [s] of 8 bytes one way, bandwidth [B/s]."""

    latency: float
    bandwidth: float

    def __str__(self) -> str:
        return f"{format_time(self.latency)}, {format_rate(self.bandwidth)}"


def measure(job: Job, peer: int | None) -> Link | None:
    """Exchange messages with `peer`, which calls this, too; the lower rank leads, measures and has the link."""
    if peer is None:
        return None
    if job.rank > peer:
        _follow(job.comm, peer)
        return None
    link = Link(_latency(job.comm, peer), _bandwidth(job.comm, peer))
    _announce(job.comm, peer, 0, 0)
    return link


def _latency(comm: MPI.Intracomm, peer: int) -> float:
    """Seconds of a small message one way: the median over batches, after a first one that makes connections."""
    _exchange(comm, peer, SMALL, 2)
    give_up = time.monotonic() + LONG
    batches = [_exchange(comm, peer, SMALL, BATCH)]
    while len(batches) < BATCHES and time.monotonic() < give_up:
        batches.append(_exchange(comm, peer, SMALL, BATCH))
    return median(batches) / (2 * BATCH)


def _bandwidth(comm: MPI.Intracomm, peer: int) -> float:
    """Bytes per second, of the largest message that goes there and back in a fraction of a second."""
    nbytes, seconds = FIRST, _exchange(comm, peer, FIRST, 1)
    while nbytes < LARGEST and seconds < LONG:
        nbytes *= 2
        seconds = _exchange(comm, peer, nbytes, 1)
    return 2 * nbytes / seconds


def _exchange(comm: MPI.Intracomm, peer: int, nbytes: int, turns: int) -> float:
    """Seconds of `turns` messages there and back."""
    _announce(comm, peer, nbytes, turns)
    message = np.zeros(nbytes, np.uint8)
    start = time.perf_counter()
    for _ in range(turns):
        comm.Send(message, peer)
        comm.Recv(message, peer)
    return time.perf_counter() - start


def _announce(comm: MPI.Intracomm, peer: int, nbytes: int, turns: int) -> None:
    """Tell the follower what comes, and wait until it is ready; no turns are the end."""
    header = np.array([nbytes, turns])
    comm.Send(header, peer)
    comm.Recv(header, peer)


def _follow(comm: MPI.Intracomm, peer: int) -> None:
    """Send back what comes until the leader ends it."""
    header = np.zeros(2, np.int64)
    while True:
        comm.Recv(header, peer)
        nbytes, turns = header.tolist()
        message = np.zeros(nbytes, np.uint8)
        comm.Send(header, peer)
        if not turns:
            return
        for _ in range(turns):
            comm.Recv(message, peer)
            comm.Send(message, peer)


def format_time(seconds: float) -> str:
    """Seconds for people."""
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def format_rate(bandwidth: float) -> str:
    """Bytes per second for people, in decimal units."""
    return f"{bandwidth / 1e9:.3g} GB/s" if bandwidth >= 1e9 else f"{bandwidth / 1e6:.3g} MB/s"
