"""What the ranks of a call tell each other, once, before anything is decided."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from hpcdist import algorithms
from hpcdist.collectives.signature import Signature, compare
from hpcdist.device import Accelerator, accelerator_of, awareness, paths
from hpcdist.device.paths import AUTO, PEER
from hpcdist.errors import ArgumentError
from hpcdist.executor.intranode.capability import agree_on_compiled, compiled_here
from hpcdist.kernels.reduce import DTYPES
from hpcdist.mpi.collective_errors import raise_together, who_says
from hpcdist.mpi.library import libraries
from hpcdist.transport.mpi import MpiTransport
from hpcdist.transport.shared_memory import Place, home_of, obstacle, place_of
from hpcdist.tuning.auto import loaded
from hpcdist.tuning.table import Selection

Table = Selection | str | os.PathLike[str] | None
Places = tuple[Place | None, Place | None]  # in arrays of `empty`: of the result, and of the input if that is another

NOT_ONE_NODE = "the ranks are not all on one node, or there is but one"
NO_FLAGS = "they need compiled code on all ranks: see HPCDIST_COMPILED, and the extra hpcdist[fast] for Numba"


@dataclass(frozen=True)
class Facts:
    """What all ranks know when they decide; the same on each.

    Attributes:
        signature: of the call.
        topology: the node of every rank, as the algorithm is told.
        hosts: the node of every rank, as it is.
        sent_at_once: bytes that are sent to other hosts at once, or None.
        compiled: whether all have compiled code; None if nobody asked.
        not_in_place: why they cannot work in each other's arrays, None if they can.
        not_bounced: why arrays cannot pass through bounce buffers, None if they can.
        device: what decides about the path of data in device memory; None for host memory.
    """

    signature: Signature
    topology: Sequence[int]
    hosts: Sequence[int]
    sent_at_once: int | None = None
    compiled: bool | None = None
    not_in_place: str | None = None
    not_bounced: str | None = None
    device: paths.Facts | None = None

    @property
    def asks_for_memory(self) -> bool:
        """Whether the call is one that could use shared memory."""
        return self.signature.call == "allreduce" and (
            self.signature.algorithm == AUTO or is_shared(self.signature.algorithm)
        )

    @property
    def nbytes(self) -> int:
        """Of the buffer."""
        return self.signature.count * DTYPES[self.signature.dtype].itemsize


@dataclass(frozen=True)
class _Told:
    """What one rank tells."""

    signature: Signature
    problem: str | None = None
    compiled: tuple[bool, str | None] = (False, None)
    places: Places | None = None
    no_memory: str | None = None
    unshareable: str | None = None
    aware: awareness.Awareness | None = None
    table: Selection | None = None
    no_table: str | None = None
    dropped: frozenset[int] = frozenset()


def is_shared(algorithm: object) -> bool:
    """Whether the algorithm works in the memory of other ranks."""
    return str(algorithm).partition(":")[0] == algorithms.SHARED


def places_of(call: str, algorithm: object, buffer: Any, out: Any) -> Places | None:
    """Where this rank's arrays lie in shared memory; None if the call is none that could use it."""
    if call != "allreduce" or not (algorithm == AUTO or is_shared(algorithm)) or accelerator_of(buffer):
        return None
    return (place_of(buffer), None) if out is None else (place_of(out), place_of(buffer))


def gather(
    transport: MpiTransport,
    signature: Signature,
    problem: str | None,
    buffer: NDArray,
    out: NDArray | None,
    table: Table,
    wanted: Mapping[int, int],
) -> tuple[Facts, Selection | None, bool]:
    """Collective: one exchange, and two more for device memory that could be opened by others.

    Args:
        transport: the ranks.
        signature: of the call.
        problem: what is wrong with this rank's arguments.
        buffer: the input.
        out: where the result goes; in place if None.
        table: what "auto" reads; rank 0's counts.
        wanted: bytes of the bounce buffers that it would have, by their numbers.

    Returns: what all know, the table, and whether the arrays of all lie alike.

    Raises: ArgumentError, on all ranks alike, if one has a problem or they made different calls.
    """
    device = None if problem else accelerator_of(buffer)
    places = None if problem else places_of(signature.call, signature.algorithm, buffer, out)
    one_node = len(set(transport.topology)) == 1 < transport.size
    told = _tell(transport, signature, problem, places, device, (buffer, out), table, wanted if one_node else {})
    answers: list[_Told] = transport.exchange(told, f"agree on {signature.call}")
    raise_together([each.problem for each in answers], ArgumentError)
    compare([each.signature for each in answers])
    transport.take_back([each.dropped for each in answers])
    if answers[0].no_table:
        raise ArgumentError(answers[0].no_table)
    if places is not None or wanted:
        agree_on_compiled(transport, [each.compiled for each in answers])
    topology = transport.topology if signature.topology is None else signature.topology
    alike = len({(each.places, each.unshareable) for each in answers}) == 1
    not_in_place = not_bounced = None
    if device is None:
        not_in_place = _not_in_place(transport, buffer if out is None else out, answers, topology)
        not_bounced = _not_bounced(transport, answers, topology)
    facts = Facts(
        signature,
        topology,
        transport.topology,
        transport.sent_at_once,
        transport.compiled,
        not_in_place,
        not_bounced,
        _of_device(transport, device, buffer, out, answers) if device else None,
    )
    return facts, answers[0].table, alike


def _tell(
    transport: MpiTransport,
    signature: Signature,
    problem: str | None,
    places: Places | None,
    device: Accelerator | None,
    arrays: tuple[Any, Any],
    table: Table,
    wanted: Mapping[int, int],
) -> _Told:
    """What this rank knows by itself."""
    dropped = frozenset(transport.dropped)
    if problem:
        return _Told(signature, problem, dropped=dropped)
    compiled = compiled_here(transport) if places is not None or wanted else (False, None)
    no_memory = home_of(transport).no_bounce_buffers(wanted) if compiled[0] and wanted else None
    unshareable = aware = selection = no_table = None
    if device is not None:
        unshareable = next(filter(None, (device.unshareable(each) for each in arrays if accelerator_of(each))), None)
        try:
            aware = _awareness(transport)
        except ValueError as error:
            problem = str(error)
    if transport.rank == 0 and signature.algorithm == AUTO:
        try:
            selection = loaded(table)
        except (OSError, TypeError, ValueError) as error:
            no_table = f"the selection table cannot be used: {error}"
    return _Told(signature, problem, compiled, places, no_memory, unshareable, aware, selection, no_table, dropped)


def _not_in_place(
    transport: MpiTransport, result: Any, answers: Sequence[_Told], topology: Sequence[int]
) -> str | None:
    """Why the ranks cannot work in each other's arrays, or None."""
    known = [each.places for each in answers if each.places is not None]
    if not known:
        return "the call is none that could use it"
    results, inputs = zip(*known, strict=True)
    if any(results) and len(set(inputs)) > 1:
        return "the ranks' inputs do not lie at the same place of the same array of hpcdist.empty, or all elsewhere"
    return obstacle(transport, result, results, topology)


def _not_bounced(transport: MpiTransport, answers: Sequence[_Told], topology: Sequence[int]) -> str | None:
    """Why arrays cannot pass through bounce buffers, or None."""
    if not len(set(topology)) == len(set(transport.topology)) == 1 < transport.size:
        return NOT_ONE_NODE
    if not transport.compiled:
        return NO_FLAGS
    return next((each.no_memory for each in answers if each.no_memory), None)


# --- device memory ---


def _awareness(transport: MpiTransport) -> awareness.Awareness | None:
    """What is known on this node; its first rank looks, since it may have to read a file. Raises: ValueError."""
    if transport.node.rank:
        return None
    return awareness.known(next(iter(libraries()), ""), os.environ)


def _of_device(
    transport: MpiTransport, device: Accelerator, buffer: NDArray, out: NDArray | None, answers: Sequence[_Told]
) -> paths.Facts:
    """Collective: what decides about the path."""
    nodes = len(set(transport.topology))
    unshareable, unopened = who_says([each.unshareable for each in answers]) or None, None
    if nodes == 1 and not unshareable and answers[0].signature.path in (AUTO, PEER):
        unopened = _try_to_open(transport, device, [buffer] if out is None else [out, buffer])
    aware = awareness.least(each.aware for each in answers if each.aware)
    return paths.Facts(nodes, unshareable, unopened, aware.aware, aware.source)


def _try_to_open(transport: MpiTransport, device: Accelerator, arrays: Sequence[NDArray]) -> str | None:
    """Collective: why the ranks of this node cannot open each other's buffers, which is tried; None if they can."""
    shares = problem = None
    try:
        shares = [device.share(array) for array in arrays]
    except Exception as error:
        problem = f"its memory cannot be shared: {error}"
    given = transport.exchange(shares, "share their buffers")
    for peer, theirs in enumerate(given):
        try:
            for share in theirs or () if peer != transport.rank else ():
                device.opened(share, arrays[0].dtype)
        except Exception as error:
            problem = problem or f"cannot open the memory of rank {peer}: {error}"
    return who_says(transport.exchange(problem, "open each other's buffers")) or None
