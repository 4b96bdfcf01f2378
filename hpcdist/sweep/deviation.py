"""Measured against predicted: which rows are slower than their own model, and what that likely comes from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hpcdist.sweep.record import Record, grouped, labels, segment_name
from hpcdist.util.sizes import format_bytes

SLOW = 1.5  # times its model's time, from which on a row is worth a word


def ratio(record: Record) -> float | None:
    """The median time over the predicted one; None where nothing is predicted, or a lone rank has nothing to send."""
    return record.times.time_us_p50 / record.predicted_us if record.predicted_us else None


def slow(record: Record) -> bool:
    """Whether it took more than `SLOW` times what its model says."""
    return (ratio(record) or 0.0) > SLOW


def cause(record: Record, machine: dict[str, Any], model: dict[str, float | None]) -> str:
    """What makes a slow row slow, most likely: the first of the known causes that its numbers speak for."""
    predicted, excess = record.predicted_us or 0.0, record.times.time_us_p50 - (record.predicted_us or 0.0)
    if machine["oversubscribed"]:
        most, cores = max(machine["ranks_per_node"]), machine["cores_per_host"]
        return f"{most} ranks share {cores} cores, and who waits for a message waits for the scheduler"
    if record.times.time_us_min <= SLOW * predicted:
        return "something else ran meanwhile: the fastest sample is as predicted"
    alpha, beta = (model[name] or 0.0 for name in ("alpha", "beta"))
    pieces = (record.sent_bytes or 0.0) / record.segment_nbytes if record.segment_nbytes else 0.0
    if pieces * alpha * 1e6 > excess / 2:
        segment = segment_name(record.segment_nbytes)
        return f"messages travel in segments of {segment}, and each costs a message: try a larger --segment-bytes"
    if beta * (record.sent_bytes or 0.0) * 1e6 < predicted / 2:
        return "what a step costs beside its messages: starting them, and waiting for the slowest rank"
    return "bytes that move slower than between neighbours: beyond the caches, or over a link or memory that all share"


def flags(records: Iterable[Record], machine: dict[str, Any], model: dict[str, float | None]) -> Iterator[str]:
    """Comment lines on the slow rows, those with one algorithm and cause together."""
    records = list(records)
    names = labels(records)
    groups = grouped(
        filter(slow, records), lambda r: (names[r.algorithm, r.segment_nbytes], r.dtype, r.op, cause(r, machine, model))
    )
    for (name, dtype, op, why), group in groups.items():
        yield f"# slower than its model: {name}, {_sizes(group)} {dtype} {op}: {_ratios(group)}; likely: {why}"


def _sizes(group: Sequence[Record]) -> str:
    sizes = sorted({record.nbytes for record in group})
    return " to ".join(format_bytes(size) for size in dict.fromkeys((sizes[0], sizes[-1])))


def _ratios(group: Sequence[Record]) -> str:
    ratios = [f"{found:.1f}" for found in sorted(ratio(record) or 0.0 for record in group)]
    return "x" + " to x".join(dict.fromkeys((ratios[0], ratios[-1])))
