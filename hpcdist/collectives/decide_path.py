"""How data in device memory travels: the ranks tell each other what the decision depends on, and take it alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from hpcdist.collectives.signature import Signature
from hpcdist.device import Accelerator, accelerator_of, awareness, paths
from hpcdist.device.paths import AUTO, DIRECT, HOST
from hpcdist.errors import ArgumentError
from hpcdist.mpi.collective_errors import who_says
from hpcdist.mpi.library import libraries
from hpcdist.transport.mpi import MpiTransport


def choose_path(
    transport: MpiTransport, signature: Signature, arrays: Sequence[NDArray], lying: Sequence[Any]
) -> tuple[str, str]:
    """Collective: (how the data travels, why)."""
    device = accelerator_of(arrays[0])
    if device is None:
        return HOST, paths.IN_HOST_MEMORY
    nodes = len(set(transport.topology))
    aware = _awareness(transport)
    unshareable, unopened = who_says([next(filter(None, said), None) for said in lying]) or None, None
    if nodes == 1 and not unshareable and signature.path in (AUTO, DIRECT):
        unopened = _try_to_open(transport, device, arrays)
    return paths.decide(signature.path, paths.Facts(nodes, unshareable, unopened, aware.aware, aware.source))


def _awareness(transport: MpiTransport) -> awareness.Awareness:
    """Collective: what is known on all nodes; the first rank of each looks, since it may have to read a file."""
    said: Any = None
    if transport.topology.index(transport.topology[transport.rank]) == transport.rank:
        try:
            said = awareness.known(next(iter(libraries()), ""), os.environ)
        except ValueError as error:
            said = str(error)
    answers = [answer for answer in transport.exchange(said, "tell what is known of MPI and device memory") if answer]
    problem = next((answer for answer in answers if isinstance(answer, str)), None)
    if problem:
        raise ArgumentError(problem)
    return awareness.least(answers)


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
