"""What the ranks of a collective call must agree on before data moves, and the errors they all raise if they do not."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import numpy as np

from hpcdist import algorithms
from hpcdist.device import accelerator_of, problem_with
from hpcdist.device.buffers import address_of
from hpcdist.device.paths import AUTO, HOST
from hpcdist.errors import ArgumentError
from hpcdist.kernels.reduce import OPS
from hpcdist.mpi.collective_errors import raise_together, who_says
from hpcdist.schedule.ir import Schedule
from hpcdist.transport.mpi import MpiTransport


@dataclass(frozen=True)
class Signature:
    """What all ranks must agree on before they can work together. Never an address: those differ.

    `memory` is "host" or the kind of the device in which the buffer lies, `path` the one that was asked for.
    """

    call: str
    count: int
    dtype: str
    op: str
    algorithm: str
    root: int = 0
    segment_nbytes: int | None = None
    topology: tuple[int, ...] | None = None
    memory: str = HOST
    path: str = AUTO

    def number(self, said: Any = None) -> int:
        """The signature, and something else that was said, as a number that is the same on every rank."""
        return zlib.crc32(repr((self, said)).encode())


def signature_of(call: str, buffer: Any, op: str, algorithm: str, **more: Any) -> Signature:
    """The signature of a call; of an argument that is no array it says what it is."""
    if device := accelerator_of(buffer):
        count, dtype, memory = buffer.size, device.dtype_of(buffer).name, device.kind
    elif isinstance(buffer, np.ndarray):
        count, dtype, memory = buffer.size, buffer.dtype.name, HOST
    else:
        count, dtype, memory = -1, type(buffer).__name__, HOST
    return Signature(call, count, dtype, str(op), str(algorithm), memory=memory, **more)


def schedule_of(signature: Signature, size: int, topology: Sequence[int]) -> Schedule:
    """The schedule behind a signature."""
    match signature.call:
        case "allreduce":
            return algorithms.allreduce(signature.algorithm, size, topology)
        case "reduce_scatter":
            return algorithms.reduce_scatter(signature.algorithm, size)
        case "allgather":
            return algorithms.allgather(signature.algorithm, size)
        case "reduce":
            return algorithms.reduce(size, signature.root)
        case "bcast":
            return algorithms.bcast(size, signature.root)
        case _:
            return algorithms.pairwise(size)


def problem_of(signature: Signature, transport: MpiTransport, buffer: Any, out: Any) -> str | None:
    """The first thing that is wrong with this rank's arguments, in words."""
    problems = chain(_buffer_problems(signature.call, buffer, out), _argument_problems(signature, transport))
    return next(problems, None)


def problem_of_buffers(call: str, buffer: Any, out: Any) -> str | None:
    """The first thing that is wrong with the buffers of a call whose other arguments are known to be good."""
    return next(_buffer_problems(call, buffer, out), None)


def _buffer_problems(call: str, buffer: Any, out: Any) -> Iterator[str]:
    if found := problem_with("buffer", buffer, writable=out is None):
        yield found
    if out is not None:
        if found := problem_with("out", out, writable=True):
            yield found
        usual = type(buffer) is type(out) is np.ndarray
        if not usual and (found := _apart(buffer, out)):
            yield found
        if out.shape != buffer.shape or out.dtype != buffer.dtype:
            yield f"out is {out.dtype}{list(out.shape)}, but buffer is {buffer.dtype}{list(buffer.shape)}"
        if np.may_share_memory(buffer, out) if usual else _overlap(buffer, out):
            yield "out overlaps buffer; leave out away to work in place"
    elif call == "alltoall":
        yield "an all-to-all needs out, an array like buffer"


def _apart(buffer: Any, out: Any) -> str | None:
    """That two arrays are not in the same memory, in words; None if they are."""
    here, there = map(_memory, (out, buffer))
    return f"out is in {here}, but buffer is in {there}; both must be in the same memory" if here != there else None


def _memory(array: Any) -> str:
    """The memory in which an array lies, in words."""
    device = accelerator_of(array)
    return f"the memory of {device.kind} device {device.identity}" if device else "host memory"


def _overlap(buffer: Any, out: Any) -> bool:
    """Whether two arrays without gaps in the same memory have elements in common."""
    first, second = address_of(buffer), address_of(out)
    return first < second + out.nbytes and second < first + buffer.nbytes


def _argument_problems(signature: Signature, transport: MpiTransport) -> Iterator[str]:
    if signature.call == "alltoall" and signature.count % transport.size:
        yield f"an all-to-all of {signature.count} elements cannot be cut into {transport.size} equal parts"
    if signature.memory == HOST and signature.path != AUTO:
        yield f"path={signature.path!r} is for buffers in device memory, and buffer is in host memory"
    if signature.op not in OPS:
        yield f"there is no operation {signature.op!r}; choose from {', '.join(OPS)}"
    if not isinstance(signature.root, int) or not 0 <= signature.root < transport.size:
        yield f"there is no rank {signature.root!r} to be the root; ranks are 0..{transport.size - 1}"
    segment = signature.segment_nbytes
    if segment is not None and (not isinstance(segment, int) or segment < 0):
        yield f"segment_nbytes must be a number of bytes (0: whole messages), not {segment!r}"
    nodes = signature.topology
    if nodes is not None and (len(nodes) != transport.size or not all(isinstance(node, int) for node in nodes)):
        yield f"the topology must be {transport.size} node numbers, one per rank, not {nodes!r}"
    if signature.algorithm != "auto":
        try:
            schedule_of(signature, transport.size, transport.topology if nodes is None else nodes)
        except ValueError as error:
            yield str(error)
    elif signature.call != "allreduce":
        yield f"algorithm='auto' chooses among all-reduces; name one for {signature.call}"


def compare(signatures: Sequence[Signature]) -> None:
    """Raise if ranks made different calls; the same text everywhere, with the fields that differ."""
    if len(set(signatures)) == 1:
        return
    differing = [f.name for f in fields(Signature) if len({getattr(s, f.name) for s in signatures}) > 1]
    text = who_says([", ".join(f"{name}={getattr(each, name)!r}" for name in differing) for each in signatures])
    raise ArgumentError(f"the ranks do not make the same call. {text}. All must agree before data can move.")


def agree_on(transport: MpiTransport, signature: Signature, problem: str | None) -> None:
    """Collective: raise on all ranks alike if one has a problem or they made different calls."""
    answers = transport.exchange((problem, signature), f"agree on {signature.call}")
    raise_together([answer[0] for answer in answers], ArgumentError)
    compare([answer[1] for answer in answers])
