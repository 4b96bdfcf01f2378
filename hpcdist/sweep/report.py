"""A sweep as text: nccl-tests' table, one per algorithm, or one wide table of all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hpcdist.device.paths import HOST
from hpcdist.sweep import deviation, tune
from hpcdist.sweep.record import LIBRARY, Record, Report, grouped, labels, of_library, segment_name
from hpcdist.tuning.table import Rule
from hpcdist.util.sampling import digits
from hpcdist.util.sizes import format_bytes

NCCL_TYPES = {
    "float64": "double",
    "float32": "float",
    "float16": "half",
}  # the others share their NumPy names
PROGRAM = "hpcdist sweep"

BUSBW = "# busbw = algbw * 2(p-1)/p for p = {ranks} ranks; algbw = bytes / time, decimal GB/s"


def head(report: Report) -> Iterator[str]:
    """Comment lines: what ran where, what the columns mean, and what to beware of."""
    machine, config = report.machine, report.config
    yield f"# Collective test starting: {PROGRAM}"
    yield f"# {machine['mpi']}, {machine['ranks']} ranks on {', '.join(machine['hosts'])} ({machine['cpu']})"
    yield BUSBW.format(ranks=machine["ranks"])
    unit = "batches of operations back to back" if config["timing"] == "pipelined" else "operations after a barrier"
    yield f"# time = median over samples ({unit}); a sample is the maximum over ranks"
    yield f"# price model: {prices(report.model)}"
    if machine.get("devices"):
        yield f"# memory: {devices(machine['devices'])}; times are the host's, from the call until the result is there"
    if machine["ranks"] == 1:
        yield "# note: a lone rank sends nothing, so busbw is 0"
    if machine["oversubscribed"]:
        most, cores = max(machine["ranks_per_node"]), machine["cores_per_host"]
        yield f"# note: {most} ranks share {cores} cores; such timings do not compare with others"


def devices(found: dict[str, Any]) -> str:
    """The devices in whose memory the buffers lie, and how many ranks share one."""
    most = max(found["ranks_per_device"])
    gpus = [f"{number} x {name}" for name, number in found["names"].items()]
    shared = [f"up to {most} ranks on each"] if most > 1 else []
    versions = [f"{name} {number}" for name, number in found["versions"].items()]
    return ", ".join([found["kind"], *gpus, *shared, *versions])


def prices(model: dict[str, float | None]) -> str:
    """The prices that are set: those of a message in microseconds, those of a byte in nanoseconds."""
    units = {
        "alpha": (1e6, "us/message"),
        "gap": (1e6, "us/message"),
        "beta": (1e9, "ns/B"),
        "gamma": (1e9, "ns/B reduced"),
        "burst": (2**-10, "KiB"),
    }
    texts = []
    for name, price in model.items():
        factor, unit = units[name.split("_")[-1]]
        if price or (price is not None and not name.startswith("burst")):
            texts.append(f"{name} {price * factor:.3g} {unit}")
    return ", ".join(texts)


def foot(records: Sequence[Record]) -> Iterator[str]:
    """nccl-tests' last lines; "out of bounds" counts failed cases, not elements."""
    failed, unchecked = (sum(map(of, records)) for of in (lambda r: bool(r.wrong), lambda r: r.wrong is None))
    verdict = "FAILED" if failed else f"in what was checked; {unchecked} NOT CHECKED" if unchecked else "OK"
    mean = sum(record.busbw for record in records) / len(records) if records else 0.0
    yield from [
        f"# {'Out of bounds values':<20} : {failed} {verdict}",
        f"# {'Avg bus bandwidth':<20} : {mean:g} ",
        "#",
        f"# Collective test concluded: {PROGRAM}",
    ]


def answer(records: Sequence[Record]) -> Iterator[str]:
    """Which algorithm of ours is the fastest at each size, beside the library: what one sweeps for.

    Times are geometric means over what was measured of all, as operations and placements.
    """
    groups = grouped(tune.right(records), lambda r: (r.ranks, r.nodes, r.dtype, r.memory, r.path))
    for (ranks, nodes, dtype, memory, path), block in groups.items():
        rows = [_best(nbytes, found) for nbytes, found in grouped(block, lambda r: r.nbytes).items()]
        if any(rows):
            yield "#"
            yield f"# The fastest of ours, {_where(ranks, nodes, dtype, memory, path)}"
            yield ANSWER.format("size", "algorithm", "segment", "time (us)", "MPI_Allreduce (us)", "ours / MPI")
            yield from filter(None, rows)


ANSWER = "# {:>10}  {:<28}  {:>9}  {:>12}  {:>18}  {:>10}"


def _best(nbytes: int, records: Sequence[Record]) -> str:
    """The line of a size; nothing without any of ours."""
    times = tune.times_of(records)
    ours = {case: us for case, us in times.items() if not of_library(case[0])}
    if not ours:
        return ""
    name, segment = min(ours, key=ours.__getitem__)
    us, library = ours[name, segment], times.get((LIBRARY, None))
    beside = ("-", "-") if library is None else (digits(library), f"{us / library:.2f}")
    return ANSWER.format(format_bytes(nbytes), name, segment_name(segment), digits(us), *beside)


def _where(ranks: int, nodes: int, dtype: str, memory: str, path: str) -> str:
    apart = "" if memory == HOST else f", {memory} memory, path {path}"
    return f"{ranks} ranks on {nodes} node{'s' if nodes > 1 else ''}, {dtype}{apart}"


def in_words(rules: Sequence[Rule]) -> Iterator[str]:
    """What a table takes, for each number of ranks and type."""
    for rule in rules:
        yield f"# table, {_where(rule.size, rule.nodes, rule.dtype, rule.memory, rule.path)}:"
        for bracket in rule.choose:
            sizes = "above" if bracket.max_bytes is None else f"up to {format_bytes(bracket.max_bytes)}"
            yield f"#   {sizes:<16}  {bracket.algorithm}, segments: {segment_name(bracket.segment_nbytes)}"


def nccl(records: Sequence[Record]) -> Iterator[str]:
    """nccl-tests' header and rows, once for each algorithm, segment and path, type and operation."""
    blocks = grouped(records, lambda r: (r.algorithm, r.segment_nbytes, r.memory, r.path, r.dtype, r.op))
    for (algorithm, *_), block in blocks.items():
        yield from ["#", f"# Algorithm: {algorithm}{_segment(block[0])}{_path(block[0])}", "#", *NCCL_HEADER]
        yield from map(_nccl_row, grouped(block, lambda record: record.nbytes).values())


def _segment(record: Record) -> str:
    if segment_name(record.segment_nbytes) == "whole":
        return ", whole messages"
    return f", segments of {format_bytes(record.segment_nbytes)}" if record.segment_nbytes else ""


def _path(record: Record) -> str:
    return "" if record.memory == HOST else f", {record.memory} memory, path {record.path}"


MODEL_ROW = "# {:<28}  {:>9}  {:>8}  {:>4}  {:>10}  {:>12}  {:>8}"


def model(records: Sequence[Record]) -> Iterator[str]:
    """Predicted beside measured in comment lines, for which nccl-tests' table has no column."""
    predicted = [record for record in records if deviation.ratio(record) is not None]
    names = labels(records)
    rows = grouped(predicted, lambda r: (names[r.algorithm, r.segment_nbytes], r.nbytes, r.dtype, r.op))
    if rows:
        yield "#"
        yield f"# Model: predicted time, and how many times as long it took; ! where more than {deviation.SLOW:g} times"
        yield MODEL_ROW.format("algorithm", "size", "type", "op", "us", "out-of-place", "in-place")
    for (name, nbytes, dtype, op), row in rows.items():
        found = {record.placement: _ratio(record) for record in row}
        cells = (f"{row[0].predicted_us:.1f}", found.get("out_of_place", "-"), found.get("in_place", "-"))
        yield MODEL_ROW.format(name, format_bytes(nbytes), dtype, op, *cells)


def _ratio(record: Record) -> str:
    """How many times as long as predicted, with a mark if that is slow."""
    found = deviation.ratio(record)
    return "-" if found is None else f"{'! ' if deviation.slow(record) else ''}x{found:.2f}"


def _nccl_header() -> tuple[str, str, str]:
    left = "# {:>10}  {:>12}  {:>8}  {:>6}  {:>6}"
    half = "  {:>7}  {:>6}  {:>6}  {:>6}"
    names, units = ("time", "algbw", "busbw", "#wrong"), ("(us)", "(GB/s)", "(GB/s)", "")
    return (
        left.format("", "", "", "", "") + "           out-of-place                       in-place          ",
        (left + half * 2 + " ").format("size", "count", "type", "redop", "root", *names, *names),
        (left + half * 2 + " ").format("(B)", "(elements)", "", "", "", *units, *units),
    )


NCCL_HEADER = _nccl_header()


def _nccl_row(pair: Sequence[Record]) -> str:
    first = pair[0]
    dtype = NCCL_TYPES.get(first.dtype, first.dtype)
    halves = {record.placement: _nccl_half(record) for record in pair}
    return (
        f"{first.nbytes:12d}  {first.count:12d}  {dtype:>8}  {first.op:>6}  {-1:6d}"
        f"{halves['out_of_place']}{halves['in_place']}"
    )


def _nccl_half(record: Record) -> str:
    time, algbw, busbw = fit(record.times.time_us_p50, 7), fit(record.algbw, 6), fit(record.busbw, 6)
    wrong = "   N/A" if record.wrong is None else f"{record.wrong:6g}"
    return f"  {time:>7}  {algbw:>6}  {busbw:>6}  {wrong}"


def fit(value: float, width: int) -> str:
    """A number in `width` characters: two, one or no decimals, or an exponent, as nccl-tests does it."""
    digits = 0
    while value >= 10**digits:
        digits += 1
    for decimals, room in ((2, width - 3), (1, width - 2), (0, width)):
        if digits <= room:
            return f"{value:{width}.{decimals}f}"
    return f"{value:{width}.{1 if width >= 7 else 0}e}"


# Wide: every record on a line of its own, with what nccl-tests has no column for.
WIDE: tuple[tuple[str, int, Callable[[Record], str]], ...] = (
    ("algorithm", 30, lambda r: r.algorithm),
    ("segment", 8, lambda r: segment_name(r.segment_nbytes)),
    ("size", 9, lambda r: format_bytes(r.nbytes)),
    ("dtype", 8, lambda r: r.dtype),
    ("op", 4, lambda r: r.op),
    ("placement", 12, lambda r: r.placement),
    ("memory", 6, lambda r: r.memory),
    ("path", 6, lambda r: r.path),
    ("p50 us", 10, lambda r: f"{r.times.time_us_p50:.1f}"),
    ("min us", 10, lambda r: f"{r.times.time_us_min:.1f}"),
    ("p99 us", 10, lambda r: f"{r.times.time_us_p99:.1f}"),
    ("model us", 10, lambda r: "-" if r.predicted_us is None else f"{r.predicted_us:.1f}"),
    ("of model", 8, _ratio),
    ("algbw", 8, lambda r: f"{r.algbw:.3f}"),
    ("busbw", 8, lambda r: f"{r.busbw:.3f}"),
    ("sent/rank", 10, lambda r: "-" if r.sent_bytes is None else format_bytes(r.sent_bytes)),
    ("#wrong", 6, lambda r: "N/A" if r.wrong is None else f"{r.wrong:g}"),
)


def wide_row(record: Record) -> str:
    """One record, with its tail, its predicted time and its bytes on the wire."""
    return _columns([show(record) for _, _, show in WIDE])


def _columns(cells: Sequence[str]) -> str:
    """Text to the left in the first column, to the right in the others."""
    widths = [width for _, width, _ in WIDE]
    first, *others = zip(cells, widths, strict=True)
    return "  ".join([f"{first[0]:<{first[1]}}", *(f"{cell:>{width}}" for cell, width in others)])


WIDE_HEADER = (
    "# algbw, busbw [GB/s]; sent/rank: mean over ranks; model: predicted from the fitted prices, and p50 / that",
    _columns(["# algorithm", *(name for name, _, _ in WIDE[1:])]),
)
