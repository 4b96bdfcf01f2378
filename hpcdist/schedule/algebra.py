"""Schedules from schedules: one after the other, backwards, by other ranks, on part of the buffer, at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hpcdist.schedule.ir import ALLREDUCE, NO_ROWS, Contract, Rows, Schedule, Step


def then(first: Schedule, second: Schedule, name: str | None = None) -> Schedule:
    """`first`, then `second`: a reduce-scatter and an all-gather with the same owners make an all-reduce."""
    for what, a, b in (("ranks", first.size, second.size), ("chunks", first.chunks, second.chunks)):
        if a != b:
            raise ValueError(f"{first.name} has {a} {what} but {second.name} has {b}: they cannot follow one another.")
    kinds = first.contract.kind, second.contract.kind
    if kinds != ("reduce_scatter", "allgather"):
        raise ValueError(f"{kinds[0]} then {kinds[1]} has no contract here; give a reduce_scatter and an allgather.")
    if not np.array_equal(first.contract.owner, second.contract.owner):
        raise ValueError(f"{first.name} leaves chunks at other ranks than {second.name} gathers them from.")
    return replace(
        first,
        name=name or f"{first.name} + {second.name}",
        steps=(*first.steps, *second.steps),
        contract=ALLREDUCE,
        alike=first.alike and second.alike,
    )


def backwards(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps in reverse order, each transfer going back and overwriting."""

    def back(step: Step) -> Callable[[int | None], Rows]:
        return lambda rank: step.make(rank).mirrored()

    return _changed(tuple(reversed(steps)), back)


def _changed(steps: Sequence[Step], change: Callable[[Step], Callable[[int | None], Rows]]) -> tuple[Step, ...]:
    """All steps changed alike: those of one pattern have one again, which no other step of any schedule has."""
    this = object()
    return tuple(Step(change(step), None if step.pattern is None else (this, step.pattern)) for step in steps)


def mirror(schedule: Schedule, name: str | None = None) -> Schedule:
    """The all-gather of a reduce-scatter (the broadcast of a reduce): its steps backwards."""
    if schedule.contract.kind != "reduce_scatter":
        raise ValueError(f"only a reduce_scatter has a mirror; {schedule.name} is a {schedule.contract.kind}.")
    return replace(
        schedule,
        name=name or f"mirror({schedule.name})",
        steps=backwards(schedule.steps),
        contract=Contract("allgather", schedule.contract.owner),
    )


def on_groups(schedule: Schedule, groups: Sequence[Sequence[int]], size: int) -> tuple[Step, ...]:
    """The steps of `schedule` played by disjoint groups of ranks at once: `groups[g][i]` takes the part of rank i."""
    names = np.asarray(groups, np.int64).reshape(-1, schedule.size)
    if len(set(names.ravel().tolist())) != names.size or not ((names >= 0) & (names < size)).all():
        raise ValueError(f"{schedule.name} needs groups of {schedule.size} different ranks below {size}.")
    part_of = {rank: divmod(i, schedule.size) for i, rank in enumerate(names.ravel().tolist())}

    def renamed(step: Step) -> Callable[[int | None], Rows]:
        def make(rank: int | None) -> Rows:
            if rank is None:
                rows, ranks = step.make(None), names
            elif rank in part_of:
                group, part = part_of[rank]
                rows, ranks = step.make(part), names[group : group + 1]
            else:
                return NO_ROWS
            src, dst = ranks[:, rows.src].ravel(), ranks[:, rows.dst].ravel()
            same = (np.tile(column, len(ranks)) for column in rows.columns[2:])
            return Rows(src, dst, *same)

        return make

    return _changed(schedule.steps, renamed)


def relabel(schedule: Schedule, ranks: Sequence[int], size: int) -> Schedule:
    """`schedule` played by a subset of `size` ranks: the part of rank i is taken by `ranks[i]`."""
    owner = schedule.contract.owner
    return replace(
        schedule,
        size=size,
        steps=on_groups(schedule, [ranks], size),
        contract=replace(schedule.contract, owner=None if owner is None else np.asarray(ranks, np.int64)[owner]),
        alike=schedule.alike and size == schedule.size,
    )


def place(schedule: Schedule, cuts: Sequence[int], chunks: int) -> Schedule:
    """`schedule` on (part of) a finer buffer: its chunk c becomes the chunks `cuts[c]` .. `cuts[c + 1] - 1`.

    Chunks outside the cuts are not touched; they have owner -1.
    """
    at = np.asarray(cuts, np.int64)
    if len(at) != schedule.chunks + 1 or schedule.input_chunks:
        raise ValueError(f"{schedule.name} has {schedule.chunks} chunks, so it needs {schedule.chunks + 1} cuts.")

    def placed(step: Step) -> Callable[[int | None], Rows]:
        def make(rank: int | None) -> Rows:
            rows = step.make(rank)
            first = at[rows.src_chunk]
            count = at[rows.src_chunk + rows.count] - first
            return replace(rows, src_chunk=first, dst_chunk=at[rows.dst_chunk], count=count)

        return make

    equal = len(set(np.diff(at).tolist())) == 1
    steps = schedule.steps if equal else [Step(step.make) for step in schedule.steps]
    owner = schedule.contract.owner
    if owner is not None:
        owner = np.pad(np.repeat(owner, np.diff(at)), (at[0], chunks - at[-1]), constant_values=-1)
    return replace(
        schedule,
        chunks=chunks,
        steps=_changed(steps, placed),
        contract=replace(schedule.contract, owner=owner),
        alike=False,
    )


def beside(parts: Sequence[Sequence[Step]]) -> tuple[Step, ...]:
    """Several lists of steps at the same time; their ranks or chunks must not meet."""
    this = object()

    def merged(number: int) -> Step:
        steps = [part[number] for part in parts if number < len(part)]
        patterns = [step.pattern for step in steps]
        pattern = None if None in patterns else (this, *patterns)
        return Step(lambda rank: Rows.concatenate([step.make(rank) for step in steps]), pattern)

    return tuple(merged(number) for number in range(max(map(len, parts), default=0)))


def owned_in_order(schedule: Schedule) -> Schedule:
    """The same schedule with its parts dealt out so that rank c owns chunk c, as MPI's calls have it."""
    owner = schedule.contract.owner
    if owner is None or sorted(owner.tolist()) != list(range(schedule.size)):
        raise ValueError(f"{schedule.name} on {schedule.size} ranks does not leave one chunk at every rank.")
    return relabel(schedule, np.argsort(owner).tolist(), schedule.size)
