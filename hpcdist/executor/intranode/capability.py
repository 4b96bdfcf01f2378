"""Whether the ranks of a communicator have compiled code for the memory that they share.

It is compiled by Numba (the extra `fast`). HPCDIST_COMPILED=0 does without, as where there is no Numba; 1 insists.
"""

from __future__ import annotations

from collections.abc import Sequence

from hpcdist.kernels.jit import compiled_or_none
from hpcdist.mpi.collective_errors import raise_together
from hpcdist.transport.mpi import MpiTransport


def compiled_on_all(transport: MpiTransport) -> bool:
    """Collective the first time: whether all ranks have Numba and want it.

    Raises: AgreedError, on all ranks alike, if HPCDIST_COMPILED cannot be obeyed.
    """
    if transport.compiled is None:
        agree_on_compiled(transport, transport.exchange(compiled_here(transport), "say whether they have Numba"))
    return bool(transport.compiled)


def compiled_here(transport: MpiTransport) -> tuple[bool, str | None]:
    """(whether this rank has compiled code, what is wrong with what it was told), unless that is agreed on already.

    The code is compiled by its import, so that what fails there is agreed on, too.
    """
    if transport.compiled is not None:
        return transport.compiled, None
    here, problem = compiled_or_none(_import)
    return here is not None, problem


def agree_on_compiled(transport: MpiTransport, answers: Sequence[tuple[bool, str | None]]) -> None:
    """Take what `compiled_here` says of all ranks. Raises: as `compiled_on_all`."""
    raise_together([problem for _, problem in answers])
    transport.compiled = all(here for here, _ in answers)


def _import() -> bool:
    import hpcdist.executor.compiled
    import hpcdist.executor.intranode.bounce_kernel  # noqa: F401  # compiled by their import

    return True
