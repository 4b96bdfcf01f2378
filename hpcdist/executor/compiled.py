"""The executor near the metal: a bound program as a table of numbers, which one compiled function goes through.

The function calls MPI and the reductions by their addresses, as C would, without Python in between. It does not hold
the global interpreter lock, and while messages keep it waiting it returns to Python every `PATIENCE`, so that signals
are handled.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numba import carray, types

from hpcdist.device.buffers import address_of
from hpcdist.executor.calls import Call
from hpcdist.kernels.copy_loops import copy
from hpcdist.kernels.in_order import Reduction
from hpcdist.kernels.loops import loop
from hpcdist.kernels.native import call, compiled, entry_of, words_at
from hpcdist.schedule.order import Act
from hpcdist.transport import Library, Native, TransferError
from hpcdist.transport.barrier import FlagBarrier
from hpcdist.transport.barrier_flags import MANY_LOOKS, all_there, job_at, raise_flag

PATIENCE = 50_000_000  # ns
BEFORE_YIELD = 1_000_000  # ns; who yields its core to strangers gets it back late
LOOKS = 128  # at a message between two looks at the clock
MONOTONIC = 1  # the clock, for clock_gettime

# The table is made of 64-bit words: a head, then one row per call. In the head are where the function is, what C
# functions answer, and the library's addresses.
POSITION, CALLS, SINCE, FLAG, COUNT, SECONDS, NANOSECONDS, ISEND, START, TEST, GET_COUNT, BYTE, STATUS = range(13)
LOOKING, SPINNING = 13, 14  # looks between two at the clock, and ns before the core is offered to others
HEAD = 15

# What a row begins with, and what follows.
STARTS = 0  # request; a receive
SENDS = 1  # request, the other arguments of MPI_Isend
WAITS = 2  # request, bytes due (-1 for a send)
COPIES = 3  # bytes, source, target
COMBINES = 4  # count, left, right, out, the steps of these three, loop, data
REDUCES = 5  # function, row: see `kernels.in_order`
BARRIER_STARTS = 6  # job: see `barrier_flags`
BARRIER_WAITS = 7  # job
ROW = 10

# What the function returns, beside MPI's error codes, which are positive.
DONE, PENDING, WRONG_LENGTH = 0, -1, -2

_sched_yield: Any = types.ExternalFunction("sched_yield", types.int32())
_clock_gettime: Any = types.ExternalFunction("clock_gettime", types.int32(types.int32, types.CPointer(types.int64)))


@compiled("boolean(int64)")
def _is_late(table: int) -> bool:
    """Say whether it is time to return, and let others have the core if the wait is long."""
    head = carray(words_at(table), HEAD)
    _clock_gettime(MONOTONIC, words_at(table + 8 * SECONDS))
    now = head[SECONDS] * 1_000_000_000 + head[NANOSECONDS]
    if head[SINCE] == 0:
        head[SINCE] = now
    waited = now - head[SINCE]
    if waited >= head[SPINNING]:
        _sched_yield()
    return waited > PATIENCE


@compiled("int64(int64, int64, int64, int64)")
def _wait(table: int, request: int, due: int, block: int) -> int:
    """Look at a message until it is complete; if bytes are due, compare."""
    head = carray(words_at(table), HEAD)
    head[FLAG] = head[COUNT] = looked = 0
    while True:
        code = call(head[TEST], (request, table + 8 * FLAG, head[STATUS]))
        if code != 0:
            return code
        if head[FLAG] != 0:
            break
        looked += 1
        if not block or (looked % head[LOOKING] == 0 and _is_late(table)):
            return PENDING
    if due < 0:
        return DONE
    call(head[GET_COUNT], (head[STATUS], head[BYTE], table + 8 * COUNT))
    return DONE if head[COUNT] == due else WRONG_LENGTH


@compiled("int64(int64, int64)")
def _advance(table: int, block: int) -> int:
    """Make the calls that are left; without `block`, up to one that would wait. After the last comes the first."""
    head = carray(words_at(table), HEAD)
    head[SINCE] = 0
    for position in range(head[POSITION], head[CALLS]):
        head[POSITION] = position
        address = table + 8 * (HEAD + ROW * position)
        row = carray(words_at(address), ROW)
        code = 0
        if row[0] == STARTS:
            code = call(head[START], (row[1],))
        elif row[0] == SENDS:
            code = call(head[ISEND], (row[2], row[3], row[4], row[5], row[6], row[7], row[1]))
        elif row[0] == WAITS:
            code = _wait(table, row[1], row[2], block)
        elif row[0] == COPIES:
            copy(row[3], row[2], row[1])
        elif row[0] == REDUCES:
            call(row[1], (row[2],))
        elif row[0] == BARRIER_STARTS:
            raise_flag(job_at(row[1]))
        elif row[0] == BARRIER_WAITS:
            code = DONE if all_there(job_at(row[1]), MANY_LOOKS if block else 1) else PENDING
        else:
            call(row[8], (address + 8 * 2, address + 8 * 1, address + 8 * 5, row[9]))
        if code != 0:
            return code
    head[POSITION] = 0
    return DONE


class CompiledRunner:
    """Makes the calls of a bound program in one compiled function.

    All messages must be native, of one library, and all barriers of flags.

    Raises: ImportError if this NumPy's loops cannot be called.
    """

    name = "compiled"

    def __init__(self, calls: Sequence[Call]) -> None:
        self._calls = calls  # which keep what the addresses point to
        self._reductions: list[Reduction] = []
        barriers = (made.request for made in calls if isinstance(made.request, FlagBarrier))
        self._meanwhile = next((barrier.meanwhile for barrier in barriers), lambda: None)
        natives = (made.request.native for made in calls if made.request)
        self._library = next((native.library for native in natives if native), None)
        self._status = np.zeros(self._library.status_nbytes if self._library else 0, np.uint8)
        words = _head(self._library, self._status) + [word for made in calls for word in self._row(made)]
        self._table = np.array(words, np.int64)
        self._table[CALLS] = len(calls)
        advance = entry_of(_advance)
        self._block, self._attempt = (partial(advance, address_of(self._table), block) for block in (1, 0))

    @property
    def position(self) -> int:
        """The index of the call in hand."""
        return int(self._table[POSITION])

    def run(self) -> None:
        """Make the calls that are left; Python handles signals between two rounds, and MPI what others wait for."""
        while code := self._block():
            if code != PENDING:
                raise self._error(code)
            self._meanwhile()

    def attempt(self) -> bool:
        """Make the calls that are left up to one that would wait."""
        code = self._attempt()
        if code not in (DONE, PENDING):
            raise self._error(code)
        return code == DONE

    def _error(self, code: int) -> Exception:
        made = self._calls[self.position]
        if self._library and (code != WRONG_LENGTH or not made.operation):
            return self._library.error(code)
        return TransferError.of(int(self._table[COUNT]), _native(made).due, made.operation.peer)  # type: ignore[union-attr]

    def _row(self, made: Call) -> list[int]:
        """The row of a call; compiled code does not look at sizes again."""
        if len({(array.size, array.dtype) for array in made.arrays}) > 1:
            found = ", ".join(f"{array.dtype}[{array.size}]" for array in made.arrays)
            raise ValueError(f"the arrays of {made.operation} must be of one size and dtype, not {found}")
        if isinstance(made.request, FlagBarrier):
            words = [BARRIER_WAITS if made.act is Act.WAIT else BARRIER_STARTS, address_of(made.request.job)]
        elif made.request and made.act is Act.WAIT:
            words = [WAITS, _native(made).address, _native(made).due]
        elif made.request:
            native = _native(made)
            words = [SENDS if native.message else STARTS, native.address, *native.message]
        else:
            words = self._work(made)
        return words + [0] * (ROW - len(words))

    def _work(self, made: Call) -> list[int]:
        """The row of what is done at once."""
        sources, targets = ([address_of(array) for array in each] for each in (made.sources, made.targets))
        out = made.targets[0]
        if not made.is_plain:
            reduction = Reduction(out.dtype, sources, targets, out.size, made.op, made.divisor)
            self._reductions.append(reduction)
            return [REDUCES, reduction.code, reduction.row]
        if made.op:
            return [COMBINES, out.size, *sources, *targets, *[out.itemsize] * 3, *loop(made.op, out.dtype)]
        return [COPIES, out.nbytes, *sources, *targets]


def _native(made: Call) -> Native:
    if made.request is None or made.request.native is None:
        raise TypeError(f"the request of {made.operation} is not native: it cannot be compiled")
    return made.request.native


def _head(library: Library | None, status: np.ndarray) -> list[int]:
    """The head of a table."""
    words = [0] * HEAD
    if library is None:
        return words
    words[ISEND], words[START], words[TEST], words[GET_COUNT] = (
        library.isend,
        library.start,
        library.test,
        library.get_count,
    )
    words[BYTE], words[STATUS] = library.byte, address_of(status)
    words[LOOKING], words[SPINNING] = (1, 0) if library.yields else (LOOKS, BEFORE_YIELD)
    return words
