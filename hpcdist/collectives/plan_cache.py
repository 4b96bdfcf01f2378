"""One-line calls: plans that are kept with the communicator, each run after a check that all ranks mean the same one.

A call with arguments that this rank has seen before finds its plan at a glance. Whatever is new, or wrong, or different
on another rank, goes the long way, in which all ranks tell each other what they want.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from hpcdist.algorithms import settled
from hpcdist.collectives.call_check import ByFlags, ByMessages
from hpcdist.collectives.decide import decide
from hpcdist.collectives.facts import Facts, gather, places_of
from hpcdist.collectives.plan import Collective, Plan, bounce_buffers_for
from hpcdist.collectives.signature import Signature, problem_of, problem_of_buffers, signature_of
from hpcdist.device import accelerator_of
from hpcdist.device.paths import AUTO, HOST, asked_for
from hpcdist.mpi.collective_errors import on_all
from hpcdist.schedule.ir import Schedule
from hpcdist.transport.mpi import MpiTransport, transport_of
from hpcdist.transport.shared_memory import home_of
from hpcdist.tuning.table import Selection

CACHED_PLANS = 64  # per communicator
ORDINARY = (None, None)  # the places of arrays that are none of `empty`
DIFFERENT = "at different places"  # those of the arrays of all ranks, if not alike; each rank alone cannot see that
_ARRAY, _address = np.ndarray, MPI.Get_address  # found sooner than by name
INTERRUPTED = "an earlier call like this one was interrupted, so that the ranks are out of step; let the job end"


def run(
    comm: MPI.Intracomm,
    call: str,
    buffer: NDArray,
    out: NDArray | None,
    op: str = "sum",
    algorithm: str | Schedule = "tree",
    root: int = 0,
) -> None:
    """Collective: run a cached plan, after a check that all ranks mean the same one."""
    transport = transport_of(comm)
    sight = _at_a_glance(call, buffer, out, op, algorithm, root)
    try:
        plan: Plan | None = transport.seen.get(sight)
    except TypeError:  # what cannot be hashed was never good
        sight = plan = None
    if plan is not None and _run_if_same(transport, plan):
        return
    asked = _Asked(call, buffer, out, op, settled(algorithm, transport.size, transport.topology), root)
    found = _known(transport, asked) if plan is None else None
    if found is None or not _run_if_same(transport, found):
        found = _agreed(transport, asked)
        transport.calls += 1
        found.collective.last_call = found.last_call = transport.calls
        try:
            found.bound()
        except BaseException:
            _spoil(transport, found)
            raise
    if found.collective.key[-1] != DIFFERENT:
        _remember(transport, sight, found)


def _run_if_same(transport: MpiTransport, plan: Plan) -> bool:
    """Collective: run it, if all ranks have come to the same call; whether they have."""
    collective = plan.collective
    transport.calls += 1
    collective.last_call = plan.last_call = transport.calls
    try:
        if plan.checked is not None:
            return plan.checked()
        if not transport.same_call(collective.number):
            return False
        plan.bound()
    except BaseException:
        _spoil(transport, plan)
        raise
    return True


def _spoil(transport: MpiTransport, plan: Plan) -> None:
    """A run was left before its end: nobody may take it up again."""
    plan.collective.spoiled = True
    transport.seen.clear()


def _remember(transport: MpiTransport, sight: tuple | None, plan: Plan) -> None:
    """Find the plan by this from now on, and by nothing else, so that it is forgotten with the plan."""
    transport.seen.pop(plan.sight, None)
    if sight:
        transport.seen[sight], plan.sight = plan, sight


def _at_a_glance(call: str, buffer: Any, out: Any, op: Any, algorithm: Any, root: Any) -> tuple | None:
    """What tells this call from all others of this rank; None if that takes a closer look at its arguments.

    Arguments that were good once are good again: what could make them bad is part of it.
    """
    if type(buffer) is not _ARRAY or not buffer.flags.carray or type(root) is not int:
        return None
    what = call, op, algorithm, root, buffer.dtype, buffer.shape, _address(buffer)
    if out is None:
        return what
    if type(out) is not _ARRAY or not out.flags.carray:
        return None
    return *what, out.dtype, out.shape, _address(out)


class _Asked(NamedTuple):
    """The arguments of a call."""

    call: str
    buffer: Any
    out: Any
    op: Any
    algorithm: Any
    root: Any

    @property
    def what(self) -> tuple:
        """All that tells it from other calls, but for where its arrays lie."""
        device = None if type(self.buffer) is np.ndarray else accelerator_of(self.buffer)
        memory, path = (HOST, AUTO) if device is None else (device.kind, asked_for(AUTO))
        count, dtype = getattr(self.buffer, "size", -1), getattr(self.buffer, "dtype", None)
        return self.call, count, dtype, memory, path, str(self.op), str(self.algorithm), str(self.root)

    @property
    def places(self) -> Any:
        """Where its arrays lie, as far as that matters."""
        device = accelerator_of(self.buffer)
        if device is not None:
            return tuple(device.unshareable(each) for each in (self.buffer, self.out) if accelerator_of(each))
        return places_of(self.call, self.algorithm, self.buffer, self.out)

    @property
    def signature(self) -> Signature:
        """On which ranks must agree."""
        path = asked_for(AUTO) if accelerator_of(self.buffer) else AUTO
        return signature_of(self.call, self.buffer, self.op, self.algorithm, root=self.root, path=path)


def _known(transport: MpiTransport, asked: _Asked) -> Plan | None:
    """The plan of a call that was made before, perhaps with other arrays; if there is none, the others are told so."""
    if transport.same_call is None:  # nobody has a plan yet
        return None
    known: Collective | None = transport.cache.get((*asked.what, asked.places))
    if known and not known.spoiled and not problem_of_buffers(asked.call, asked.buffer, asked.out):
        with suppress(Exception):  # what keeps this rank from it is found again where all hear of it
            return known.plan_for(asked.buffer, asked.out)
    transport.same_call(-2 - transport.rank)  # which no other rank says, so that all go the long way
    return None


def _agreed(transport: MpiTransport, asked: _Asked) -> Plan:
    """Collective: the plan of a call, made if need be."""
    _, buffer, out, _, _, _ = asked
    signature, places = asked.signature, asked.places
    known: Collective | None = transport.cache.get((*asked.what, places))
    problem = problem_of(signature, transport, buffer, out)
    if not problem and known and known.spoiled:
        problem = INTERRUPTED
    differing = transport.cache.get((*asked.what, DIFFERENT))
    if not problem and differing and differing.spoiled:
        problem = INTERRUPTED
    nbytes = 0 if problem or places is None else buffer.nbytes
    facts, table, alike = gather(transport, signature, problem, buffer, out, None, bounce_buffers_for(nbytes))
    key = (*asked.what, places if alike else DIFFERENT)
    known = transport.cache.get(key)
    if known is None:
        known = _made(transport, facts, table, key, buffer, out)
    return known.plan_for(buffer, out)


def _made(
    transport: MpiTransport, facts: Facts, table: Selection | None, key: tuple, buffer: NDArray, out: NDArray | None
) -> Collective:
    """Collective: a new one, in the cache, with a plan for these arrays; and at first the check of all calls."""
    if len(transport.cache) == CACHED_PLANS:
        oldest = min(transport.cache.values(), key=lambda collective: collective.last_call)  # alike on all ranks
        transport.cache.pop(oldest.key).free()
    decision = decide(facts, table)
    if transport.same_call is None:
        transport.same_call = _check(transport, facts, facts.nbytes if decision.bounced else 0)
    made = Collective(transport, decision, call=facts.signature.number(key[-1]) or 1)
    made.key = key
    first = made.bind_together(buffer, out)
    made.plans[first.key] = first
    transport.cache[key] = made
    return made


def _check(transport: MpiTransport, facts: Facts, nbytes: int) -> ByFlags | ByMessages:
    """Collective: the check before all calls; its bounce buffer comes with the one of the first."""
    if facts.not_bounced is None:
        return ByFlags(transport, home_of(transport).bounce_buffers(bounce_buffers_for(nbytes))[0])
    return on_all(transport.comm, partial(ByMessages, transport))


def forget_shared(transport: MpiTransport) -> None:
    """Collective: drop the cached plans that keep arrays of `empty` alive."""
    for key, collective in list(transport.cache.items()):
        if collective.shared and key[-1] != ORDINARY:
            transport.cache.pop(key).free()
        else:
            collective.forget_shared()
