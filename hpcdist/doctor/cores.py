"""Cores: may every rank have one to itself, and do its threads fit?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpi4py import MPI
from threadpoolctl import threadpool_info

from hpcdist.doctor.finding import FAIL, OK, WARN, Finding, listing, plural
from hpcdist.doctor.job import Job
from hpcdist.mpi import launcher as launchers
from hpcdist.mpi.collective_errors import naming
from hpcdist.mpi.quirks import told_to_yield
from hpcdist.util.cgroups import quota


@dataclass(frozen=True)
class Share:
    """What a rank may use: cores by number, threads that BLAS or OpenMP will start, whether it yields while it waits.

    `quota` is the processor time that its control group has per second [s/s], or None if it is not limited;
    `installed` is how many cores its host has for anybody.
    """

    cores: frozenset[int]
    threads: int = 1
    yields: bool = False
    quota: float | None = None
    installed: int = 0


def check(job: Job) -> list[Finding]:
    """All hosts' cores."""
    shares = job.ask("look at the cores it may use", _look)
    hosts = {name: {rank: shares[rank] for rank in ranks} for name, ranks in zip(job.names, job.nodes, strict=True)}
    return judge(hosts)


def _look() -> Share:
    threads = max((pool["num_threads"] for pool in threadpool_info()), default=1)
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # a list has one number per level of nesting
    if asked.isdigit():
        threads = max(threads, int(asked))
    return Share(frozenset(os.sched_getaffinity(0)), threads, told_to_yield(), quota(), os.cpu_count() or 0)


def judge(hosts: dict[str, dict[int, Share]]) -> list[Finding]:
    """What is wrong with any host: oversubscribed, two ranks on one core, too many threads, too small a quota."""
    crowded = [(name, ranks) for name, ranks in hosts.items() if len(ranks) > len(_usable(ranks))]
    shared = [
        text for name, ranks in hosts.items() if len(ranks) <= len(_usable(ranks)) for text in _shared(name, ranks)
    ]
    found = [_oversubscribed(crowded)] if crowded else []
    found += [_pinned(shared)] if shared else []
    return [*found, *_threads(hosts), *_quotas(hosts)] or [_good(hosts)]


def _usable(ranks: dict[int, Share]) -> frozenset[int]:
    """The cores of a host that any of its ranks may use."""
    return frozenset().union(*(share.cores for share in ranks.values()))


def _good(hosts: dict[str, dict[int, Share]]) -> Finding:
    per_rank = sorted({len(share.cores) for ranks in hosts.values() for share in ranks.values()})
    cores = sorted({len(_usable(ranks)) for ranks in hosts.values()})
    return Finding(OK, "cores", f"{_range(cores)} per host, each rank may use {_range(per_rank)}")


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _oversubscribed(crowded: Sequence[tuple[str, dict[int, Share]]]) -> Finding:
    """Ranks that yield are slow only where they wait; ranks that spin take whole time slices from each other."""
    texts = listing(_words(name, ranks) for name, ranks in crowded)
    fewer = "start as many ranks per host as there are cores (--ntasks-per-node, --cpus-per-task)"
    if all(share.yields for _, ranks in crowded for share in ranks.values()):
        why = "ranks yield while they wait, so the job moves on, but times are those of the scheduler"
        return Finding(WARN, "cores", f"oversubscribed. {texts}", why, f"{fewer}; do not compare times of this job")
    advice = {
        "Open MPI": "mpirun --mca mpi_yield_when_idle 1",
        "MPICH": "export MPIR_CVAR_POLLS_BEFORE_YIELD=1",
        "Intel MPI": "export I_MPI_WAIT_MODE=1",
    }.get(launchers.maker(MPI.Get_library_version()) or "", "the MPI's option to yield while it waits")
    why = (
        "ranks spin while they wait, and take the core from the rank they wait for: every message may take a time slice"
    )
    return Finding(
        FAIL, "cores", f"oversubscribed. {texts}", why, f"{fewer}, or let ranks yield: {advice}, or hpcdist run"
    )


def _words(name: str, ranks: dict[int, Share]) -> str:
    cores, installed = len(_usable(ranks)), max(share.installed for share in ranks.values())
    of_how_many = f" (of its {installed})" if installed > cores else ""
    return f"{name}: {plural(len(ranks), 'rank')} on {plural(cores, 'core')}{of_how_many}"


def _shared(name: str, ranks: dict[int, Share]) -> Iterator[str]:
    """Groups of ranks bound to the same cores that are more than the cores."""
    for cores in dict.fromkeys(share.cores for share in ranks.values()):
        bound = [rank for rank, share in ranks.items() if share.cores == cores]
        if len(bound) > len(cores):
            yield f"{name}: {naming(bound)} may use only {plural(len(cores), 'core')} ({listing(sorted(cores))})"


def _pinned(texts: Sequence[str]) -> Finding:
    return Finding(
        FAIL,
        "binding",
        listing(texts, 3),
        "ranks take turns on a core while others are idle: the job runs at half its speed or less",
        "bind each rank to cores of its own (srun --cpu-bind=cores --cpus-per-task=N, mpirun --bind-to core) or to "
        "none (--cpu-bind=none, --bind-to none); two jobs at once on a host often both start at core 0",
    )


def _threads(hosts: dict[str, dict[int, Share]]) -> Iterator[Finding]:
    """Threads of all ranks of a host against its cores."""
    many = {name: sum(share.threads for share in ranks.values()) for name, ranks in hosts.items()}
    texts = [
        f"{name}: {many[name]} threads of {plural(len(ranks), 'rank')} on {plural(len(_usable(ranks)), 'core')}"
        for name, ranks in hosts.items()
        if many[name] > max(len(ranks), len(_usable(ranks)))
    ]
    if texts:
        yield Finding(
            WARN,
            "compute threads",
            listing(texts, 3),
            "each rank's BLAS takes all cores it may use, and the ranks' threads fight for them; `hpcdist train` "
            "shares the cores out by itself, your own programs do not",
            "export OMP_NUM_THREADS=1, or the cores of a rank ($SLURM_CPUS_PER_TASK)",
        )


def _quotas(hosts: dict[str, dict[int, Share]]) -> Iterator[Finding]:
    """The least quota of a host's ranks against their number."""
    texts = []
    for name, ranks in hosts.items():
        least = min((share.quota for share in ranks.values() if share.quota is not None), default=None)
        if least is not None and least < len(ranks):
            texts.append(f"{name}: {least:g} cores' time for {plural(len(ranks), 'rank')}")
    if texts:
        yield Finding(
            WARN,
            "core quota",
            listing(texts, 3),
            "the control group stops all its processes when their time is used up: ranks freeze for milliseconds",
            "ask for more cores (--cpus-per-task, or the container's CPU limit), or start fewer ranks",
        )
