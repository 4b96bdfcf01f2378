"""Makes the calls of a bound program one after the other, in plain Python: the first runner to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from operator import length_hint

import numpy as np

from hpcdist.executor.calls import Call
from hpcdist.kernels import reduce as kernels
from hpcdist.schedule.order import Act


class PythonRunner:
    """Each call is a function without arguments, and a run is a loop over them."""

    name = "python"

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls
        self._functions = [_function(call) for call in calls]
        self._rest = iter(self._functions)
        context = copy_context()  # in which sums may overflow without a word, as in the MPI library
        context.run(np.seterr, all="ignore")
        self._quietly = context.run

    @property
    def position(self) -> int:
        """What is left of the iterator tells, so that a run need not count."""
        return max(0, len(self._functions) - length_hint(self._rest) - 1)

    def run(self) -> None:
        """Make the calls that are left."""
        self._quietly(self._run_rest)

    def attempt(self) -> bool:
        """Make the calls that are left up to one that would wait."""
        return self._quietly(self._try_rest)

    def _run_rest(self) -> None:
        for function in self._rest:
            function()
        self._rest = iter(self._functions)

    def _try_rest(self) -> bool:
        for index in range(len(self._calls) - length_hint(self._rest), len(self._calls)):
            call = self._calls[index]
            if call.act is not Act.WAIT:
                self._functions[index]()
            elif call.request and not call.request.test():
                return False
            next(self._rest)
        self._rest = iter(self._functions)
        return True


def _function(call: Call) -> Callable[[], object]:
    """What makes the call, and blocks."""
    if call.request:
        return call.request.start if call.act is Act.START else call.request.wait
    if not call.is_plain:
        return partial(kernels.combine_in_order, call.op, call.sources, call.targets, call.divisor)
    if call.op:
        return kernels.combination(call.op, *call.sources, *call.targets)
    return partial(kernels.copy, call.targets[0], call.sources[0])
