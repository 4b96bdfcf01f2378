"""One-line calls: plans that are kept with the communicator, each run after a check that all ranks mean the same one.

A call with arguments that this rank has seen before finds its plan at a glance. Whatever is new, or wrong, or different
on another rank, goes the long way, in which all ranks tell each other what they want.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.collectives.call_check import SameCall
from hpcdist.collectives.decide import Lying, decide, where
from hpcdist.collectives.plan import COMMON_ROOM, Collective, Plan
from hpcdist.collectives.signature import agree_on, problem_of, problem_of_buffers, signature_of
from hpcdist.device import accelerator_of
from hpcdist.device.paths import AUTO, HOST, asked_for
from hpcdist.mpi.collective_errors import on_all
from hpcdist.transport.mpi import MpiTransport, transport_of

CACHED_PLANS = 64  # per communicator
ORDINARY = (None, None)  # how arrays lie that are none of `empty`
DIFFERENT = "at different places"  # how the arrays of all ranks lie, if not alike; each rank alone cannot see that
INTERRUPTED = "an earlier call like this one was interrupted, so that the ranks are out of step; let the job end"


def run(
    comm: MPI.Intracomm,
    call: str,
    buffer: NDArray,
    out: NDArray | None,
    op: str = "sum",
    algorithm: str = "tree",
    root: int = 0,
) -> None:
    """Collective: run a cached plan, after a check that all ranks mean the same one."""
    transport = transport_of(comm)
    if transport.same_call is None:
        transport.same_call = on_all(transport.comm, partial(SameCall, transport))
    sight = _at_a_glance(call, buffer, out, op, algorithm, root)
    plan: Plan | None = transport.seen.get(sight)
    if plan is None or not transport.same_call(plan.collective.number):
        asked = _Asked(call, buffer, out, op, algorithm, root)
        plan = _find(transport, asked, checked=plan is not None)
        if plan.collective.key[-1] != DIFFERENT:
            _remember(transport, sight, plan)
    collective = plan.collective
    transport.cache.move_to_end(collective.key)
    collective.plans.move_to_end(plan.key)
    try:
        plan.bound()
    except BaseException:
        collective.spoiled = True
        transport.seen.clear()
        raise


def _remember(transport: MpiTransport, sight: tuple | None, plan: Plan) -> None:
    """Find the plan by this from now on, and by nothing else, so that it is forgotten with the plan."""
    transport.seen.pop(plan.sight, None)
    if sight:
        transport.seen[sight], plan.sight = plan, sight


def _at_a_glance(call: str, buffer: Any, out: Any, op: Any, algorithm: Any, root: Any) -> tuple | None:
    """What tells this call from all others of this rank; None if that takes a closer look at its arguments.

    Arguments that were good once are good again: what could make them bad is part of it.
    """
    if type(buffer) is not np.ndarray or not buffer.flags.carray or type(op) is not str or type(algorithm) is not str:
        return None
    if type(root) is not int:
        return None
    what = call, op, algorithm, root, buffer.dtype, buffer.shape, MPI.Get_address(buffer)
    if out is None:
        return what
    if type(out) is not np.ndarray or not out.flags.carray:
        return None
    return *what, out.dtype, out.shape, MPI.Get_address(out)


class _Asked(NamedTuple):
    """The arguments of a call."""

    call: str
    buffer: Any
    out: Any
    op: Any
    algorithm: Any
    root: Any


def _find(transport: MpiTransport, asked: _Asked, checked: bool) -> Plan:
    """Collective: the plan for a call, made if need be.

    Args:
        transport: the ranks.
        asked: what for.
        checked: whether ranks have compared what they mean already, and found that they differ.
    """
    call, buffer, out, op, algorithm, root = asked
    device = None if type(buffer) is np.ndarray else accelerator_of(buffer)
    memory, path = (HOST, AUTO) if device is None else (device.kind, asked_for(AUTO))
    lying = where(call, algorithm, buffer, out, device)
    count, dtype = getattr(buffer, "size", -1), getattr(buffer, "dtype", None)
    what = (call, count, dtype, memory, path, str(op), str(algorithm), str(root))
    key: tuple = (*what, lying)
    known: Collective | None = transport.cache.get(key)
    signature = partial(signature_of, call, buffer, op, algorithm, root=root, path=path)  # takes long to make
    if known:
        number = known.number
        problem = INTERRUPTED if known.spoiled else problem_of_buffers(call, buffer, out)
    else:
        number = signature().number(lying)
        problem = problem_of(signature(), transport, buffer, out)
    everywhere: list[Lying] = [lying] * transport.size
    if checked or not transport.same_call(-1 if problem else number) or problem:
        key = (*what, DIFFERENT)
        known = transport.cache.get(key)
        if known and known.spoiled:
            problem = problem or INTERRUPTED
        everywhere = agree_on(transport, signature(), problem, lying)
    if known is None:
        if len(transport.cache) == CACHED_PLANS:
            transport.cache.popitem(last=False)[1].free()
        decision = decide(transport, signature(), None, buffer, out, everywhere, COMMON_ROOM)
        known = Collective(transport, decision, own_room=False)  # all ranks have met in the check
        known.number, known.key = number, key
        first = known.bind_together(buffer, out)
        known.plans[first.key] = first
        transport.cache[key] = known
    return known.plan_for(buffer, out)


def forget_shared(transport: MpiTransport) -> None:
    """Collective: drop the cached plans that keep arrays of `empty` alive."""
    for key, collective in list(transport.cache.items()):
        if collective.shared and key[-1] != ORDINARY:
            transport.cache.pop(key).free()
        else:
            collective.forget_shared()
