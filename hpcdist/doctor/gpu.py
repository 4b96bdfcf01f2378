"""GPUs: one per rank, visible to each other, allocators that leave CUDA IPC alone, and the path of their buffers."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence

from hpcdist.device import awareness, driver, paths
from hpcdist.device.driver import Devices
from hpcdist.doctor import aware
from hpcdist.doctor.finding import FAIL, OK, SKIP, WARN, Finding, listing, plural
from hpcdist.doctor.job import Job, Places
from hpcdist.errors import ArgumentError
from hpcdist.mpi.collective_errors import naming
from hpcdist.mpi.library import libraries

# What takes device memory from pools that CUDA IPC cannot share.
ALLOCATORS = {
    "PYTORCH_CUDA_ALLOC_CONF": r"expandable_segments:\s*True|backend:\s*cudaMallocAsync",
    "PYTORCH_ALLOC_CONF": r"expandable_segments:\s*True|backend:\s*cudaMallocAsync",
    "XLA_PYTHON_CLIENT_ALLOCATOR": r"cuda_async",
    "TF_GPU_ALLOCATOR": r"cuda_malloc_async",
}


def check(job: Job) -> list[Finding]:
    """All GPUs of the job, and whether MPI takes their memory."""
    there = job.ask("look for GPUs", driver.likely)
    if not any(there):
        found = "no GPU here, so neither CUDA-aware MPI nor binding, peers, allocators and the path of device buffers"
        return [Finding(SKIP, "GPU", found)]
    seen = job.ask("ask the CUDA driver for devices", lambda: driver.devices() if driver.likely() else Devices(()))
    allocators = job.ask("look at allocators", lambda: unshareable(os.environ))
    tried = aware.check(job)
    peers, allocator = judge_peers(job, seen), judge_allocators(allocators)
    asked, facts = paths.asked_for(paths.AUTO), facts_of(job, allocator, peers)
    return [
        *tried,
        judge_booking(job, seen),
        peers,
        allocator,
        judge_path(asked, facts, importlib.util.find_spec("cupy") is not None),
    ]


def device_of(job: Places, rank: int, seen: Sequence[Devices]) -> str | None:
    """PCI address of the device a rank takes: of those it sees, the one with its number on the node."""
    visible = seen[rank].bus_ids
    return visible[job.nodes[job.node[rank]].index(rank) % len(visible)] if visible else None


def judge_booking(job: Places, seen: Sequence[Devices]) -> Finding:
    """A device of its own for every rank."""
    without = [rank for rank in range(len(seen)) if not seen[rank].bus_ids]
    users: dict[tuple[str, str], list[int]] = {}
    for rank in range(len(seen)):
        if device := device_of(job, rank, seen):
            users.setdefault((job.host(rank), device), []).append(rank)
    twice = [f"{host} {device}: {naming(ranks)}" for (host, device), ranks in users.items() if len(ranks) > 1]
    if without or twice:
        texts = [f"{naming(without)} may use no GPU"] if without else []
        return Finding(
            FAIL,
            "GPU per rank",
            "; ".join(texts + ([f"booked more than once: {listing(twice, 3)}"] if twice else [])),
            "ranks on one device take turns on it and share its memory, without a word if its compute mode is shared",
            "ask for as many GPUs per node as ranks (--gpus-per-node=N --ntasks-per-node=N --gpu-bind=none), and let "
            "each rank take the device with its number on the node; CUDA_VISIBLE_DEVICES must not name the same single "
            "one for all",
        )
    return Finding(OK, "GPU per rank", f"{plural(len(users), 'rank')} with a GPU each, all different")


def judge_peers(job: Places, seen: Sequence[Devices]) -> Finding:
    """Direct copies between GPUs of a node need devices that see each other, and processes that see both."""
    isolated = [
        name
        for name, ranks in zip(job.names, job.nodes, strict=True)
        if len(ranks) > 1 and all(len(seen[rank].bus_ids) == 1 for rank in ranks)
        and len({seen[rank].bus_ids for rank in ranks}) > 1
    ]  # fmt: skip
    if isolated:
        return Finding(
            WARN,
            "GPU peers",
            f"on {listing(isolated)} each rank sees one GPU only, peers seen: 0",
            "with --gpus-per-task or --gpu-bind the ranks' GPUs are in separate control groups: CUDA IPC between them "
            "fails, and copies inside a node crash or go through host memory without a word",
            "--gpus-per-node=N --gpu-bind=none, and let each rank take the device with its number on the node",
        )
    possible = sum(len(each.bus_ids) * (len(each.bus_ids) - 1) for each in seen)
    able = sum(len(each.peers) for each in seen)
    if able < possible:
        blind = [
            job.host(rank)
            for rank, each in enumerate(seen)
            if len(each.peers) < len(each.bus_ids) * (len(each.bus_ids) - 1)
        ]
        return Finding(
            WARN,
            "GPU peers",
            f"{able} of {possible} pairs can read each other's memory; not all on {listing(blind)}",
            "copies between the other pairs go through host memory",
            "nvidia-smi topo -p2p r shows which; PCIe ACS and the IOMMU (virtual machines) prevent it",
        )
    return Finding(OK, "GPU peers", f"{able} of {possible} pairs of visible GPUs can read each other's memory")


def unshareable(environment: Mapping[str, str]) -> list[str]:
    """Settings of allocators whose memory CUDA IPC cannot share."""
    return [
        f"{name}={environment[name]}" for name, bad in ALLOCATORS.items() if re.search(bad, environment.get(name, ""))
    ]


def judge_allocators(settings: Sequence[Sequence[str]]) -> Finding:
    """What the environment says; a program's own choice cannot be seen from here."""
    found = listing(setting for each in settings for setting in each)
    if found:
        return Finding(
            WARN,
            "GPU allocator",
            found,
            "memory of such pools cannot be shared by CUDA IPC: MPI and NCCL crash on it or copy through host memory",
            "unset it, or allocate the buffers that are sent from a plain pool (cupy.cuda.MemoryPool, cudaMalloc)",
        )
    return Finding(
        OK, "GPU allocator", "nothing set that breaks CUDA IPC; a program may still choose cudaMallocAsync itself"
    )


def facts_of(job: Job, allocator: Finding, peers: Finding) -> paths.Facts:
    """What the path of a device buffer would depend on here; collective."""
    library = next(iter(libraries()), "")
    known = job.ask(
        "read what is known of MPI and device memory",
        lambda: awareness.known(library, os.environ) if job.is_head else None,
    )
    here = awareness.least(filter(None, known))
    unshareable, unopened = (
        None if finding.level == OK else f"{finding.name}: {finding.found}" for finding in (allocator, peers)
    )
    return paths.Facts(len(job.nodes), unshareable, unopened, here.aware, here.source)


def judge_path(asked: str, facts: paths.Facts, cupy: bool) -> Finding:
    """Which path a device buffer would take, by the decision that plans make."""
    name = "device path"
    if not cupy:
        return Finding(SKIP, name, "there is no CuPy, and so there are no device buffers")
    try:
        path, why = paths.decide(asked, facts)
    except ArgumentError as error:
        return Finding(FAIL, name, f"{paths.ENVIRONMENT}={asked}: {error}", "plans of device buffers raise this")
    if path == paths.STAGED and asked == paths.AUTO:
        return Finding(
            WARN,
            name,
            f"{path}, {why}",
            "each message crosses the bus to the host and back, which is right but slower",
            "an MPI that is known to take device memory (see CUDA-aware MPI); inside a node, GPUs that see each other",
        )
    return Finding(OK, name, f"{path}: {why}")
