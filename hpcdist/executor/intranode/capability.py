"""Whether the ranks of a communicator have compiled code for the memory that they share.

It is compiled by Numba (the extra `fast`). HPCDIST_COMPILED=0 does without, as where there is no Numba; 1 insists.
"""

from __future__ import annotations

from hpcdist.kernels.jit import compiled_or_none
from hpcdist.mpi.collective_errors import raise_together
from hpcdist.transport.mpi import MpiTransport


def compiled_on_all(transport: MpiTransport) -> bool:
    """Collective the first time: whether all ranks have Numba and want it.

    The code is compiled by its import, so that what fails there is agreed on, too.

    Raises: AgreedError, on all ranks alike, if HPCDIST_COMPILED cannot be obeyed.
    """
    if transport.compiled is None:
        here, problem = compiled_or_none(_import)
        answers = transport.exchange((problem, here is not None), "say whether they have Numba")
        raise_together([answer[0] for answer in answers])
        transport.compiled = all(answer[1] for answer in answers)
    return transport.compiled


def _import() -> bool:
    import hpcdist.executor.compiled
    import hpcdist.executor.intranode.bounce_kernel  # noqa: F401  # compiled by their import

    return True
