"""Each kernel beside a device copy of the same run: which share of the memory's bandwidth it reaches.

    python -m hpcdist.kernels.bench --out results/kernels/h100

A kernel's floor is the bytes it must move, as its docstring says; its bandwidth is floor / time. The copy moves as many
bytes as the kernel's first array has, read and written, and is measured in the same rounds, so that a drift of the
clocks meets both. Shares are medians over rounds. Launches are in the stream before the GPU comes to them, so that
times are those of the GPU and not those of Python.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np

from hpcdist.kernels.average import average
from hpcdist.kernels.bucket import Bucket
from hpcdist.kernels.combine import combine
from hpcdist.kernels.device import CUDA, Device, cupy_with_gpu
from hpcdist.kernels.lars import update as lars
from hpcdist.kernels.quantise import dequantise, groups, quantise
from hpcdist.kernels.segments import Segments
from hpcdist.kernels.sgd import update as sgd
from hpcdist.kernels.sparse import scatter_add, select
from hpcdist.kernels.unscale import unscale
from hpcdist.util import typed_json
from hpcdist.util.atomic_files import write_text
from hpcdist.util.sizes import BYTES, format_bytes

LAYER = 1 << 16  # elements of each layer or tensor
SHARE = 100  # top-k takes one element in so many
LAUNCHES = 10  # in a sample
BUSY_NBYTES, BUSY_COPIES = 1 << 28, 20  # some milliseconds of copies, in which launches are queued

Call = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A kernel, the bytes it must move and must have for an array of `nbytes`, and how to get it ready."""

    name: str
    itemsize: int  # of the array that has `nbytes`
    floor: float  # bytes moved per element
    memory: float  # bytes held per element
    prepare: Callable[[Device, int], Call]  # device, elements


def _sum(sources: int, dtype: str) -> Callable[[Device, int], Call]:
    def prepare(on: Device, n: int) -> Call:
        arrays = [on.zeros(n, dtype) for _ in range(sources)]
        return lambda: combine("sum", arrays[0], arrays, on=on)

    return prepare


def _average(on: Device, n: int) -> Call:
    total, out = on.zeros(n, np.float32), on.zeros(n, np.float16)
    return lambda: average(out, total, 8, on=on)


def _unscale(on: Device, n: int) -> Call:
    gradient, out, overflow = on.zeros(n, np.float16), on.zeros(n, np.float32), on.zeros(1, np.int32)
    return lambda: unscale(out, gradient, 1 / 1024, overflow, on=on)


def _layers(n: int) -> list[int]:
    return [min(LAYER, n - begin) for begin in range(0, n, LAYER)]


def _sgd(on: Device, n: int) -> Call:
    (w, v, g), segments = (on.zeros(n, np.float32) for _ in range(3)), Segments(_layers(n), on=on)
    rates, decays = (on.put(np.full(len(segments.sizes), value, np.float32)) for value in (0.1, 1e-4))
    return lambda: sgd(w, v, g, segments, rates, decays, 0.9, on=on)


def _lars(on: Device, n: int) -> Call:
    (w, v, g), segments = (on.zeros(n, np.float32) for _ in range(3)), Segments(_layers(n), on=on)
    return lambda: lars(w, v, g, segments, rate=0.1, trust=0.001, momentum=0.9, decay=1e-4, on=on)


def _quantise(on: Device, n: int) -> Call:
    x, error = on.zeros(n, np.float32), on.zeros(n, np.float32)
    codes, scales = on.zeros(n, np.int8), on.zeros(groups(n), np.float32)
    return lambda: quantise(codes, scales, error, x, on=on)


def _dequantise(on: Device, n: int) -> Call:
    out, codes, scales = on.zeros(n, np.float32), on.zeros(n, np.int8), on.zeros(groups(n), np.float32)
    return lambda: dequantise(out, codes, scales, on=on)


def _select(on: Device, n: int) -> Call:
    x = on.put(np.random.default_rng(0).standard_normal(n, np.float32))
    k = max(1, n // SHARE)
    indices, values = on.zeros(2 * k, np.int32), on.zeros(2 * k, np.float32)
    return lambda: select(indices, values, x, k, on=on)


def _scatter_add(on: Device, n: int) -> Call:
    out, outside = on.zeros(n, np.float32), on.zeros(1, np.int32)
    indices = on.put(np.arange(0, n, SHARE, dtype=np.int32))
    values = on.zeros(len(range(0, n, SHARE)), np.float32)
    return lambda: scatter_add(out, indices, values, outside, on=on)


def _bucket(way: str) -> Callable[[Device, int], Call]:
    def prepare(on: Device, n: int) -> Call:
        bucket = Bucket([on.zeros(size, np.float32) for size in _layers(n)], on=on)
        flat = on.zeros(n, np.float32)
        return lambda: getattr(bucket, way)(flat)

    return prepare


CASES = (
    Case("sum of 2, float64", 8, 24, 16, _sum(2, "float64")),
    Case("sum of 2, float32", 4, 12, 8, _sum(2, "float32")),
    Case("sum of 2, float16", 2, 6, 4, _sum(2, "float16")),
    Case("sum of 8, float32", 4, 36, 32, _sum(8, "float32")),
    Case("sum of 8, float16", 2, 18, 16, _sum(8, "float16")),
    Case("average, float32 to float16", 4, 6, 6, _average),
    Case("unscale, float16 to float32", 2, 6, 6, _unscale),
    Case("SGD", 4, 20, 12, _sgd),
    Case("LARS", 4, 28, 12, _lars),
    Case("quantise", 4, 13 + 4 / 256, 9, _quantise),
    Case("dequantise", 4, 5 + 4 / 256, 5, _dequantise),
    Case("select 1 %, one pass", 4, 12 + 8 / SHARE, 5, _select),
    Case("scatter-add 1 %", 4, 72 / SHARE, 5, _scatter_add),
    Case("pack", 4, 8, 8, _bucket("pack")),
    Case("unpack", 4, 8, 8, _bucket("unpack")),
)


@dataclass(frozen=True)
class Record:
    """What was measured for a kernel at one size: medians over rounds, and shares paired with the round's copy."""

    kernel: str
    nbytes: int
    floor_nbytes: float
    time_us: float
    copy_GBps: float
    share: float
    share_p10_p90: tuple[float, float]
    rounds: int
    queued: float  # part of the rounds in which all launches were there before the GPU was; below 1, Python shows


class Gpu:
    """Times on the GPU that CuPy uses."""

    def __init__(self) -> None:
        """Find it; RuntimeError if there is none."""
        self.cupy = cupy_with_gpu()
        self._from, self._into = (self.cupy.zeros(BUSY_NBYTES, np.uint8) for _ in range(2))

    def seconds(self, call: Call) -> tuple[float, bool]:
        """Time of one call, from a row of them behind other work, and whether all were queued before that ended."""
        began, ended = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        for _ in range(BUSY_COPIES):
            self.cupy.copyto(self._into, self._from)
        began.record()
        for _ in range(LAUNCHES):
            call()
        ended.record()
        queued = not began.done
        ended.synchronize()
        return self.cupy.cuda.get_elapsed_time(began, ended) / 1e3 / LAUNCHES, queued

    def copy(self, nbytes: int) -> Call:
        """A copy of `nbytes` within the device's memory."""
        source, into = (self.cupy.zeros(nbytes, np.uint8) for _ in range(2))
        return lambda: self.cupy.copyto(into, source)

    def free(self) -> int:
        """Bytes of memory that nobody uses, after giving back what was freed."""
        self.cupy.get_default_memory_pool().free_all_blocks()
        return int(self.cupy.cuda.runtime.memGetInfo()[0])

    def describe(self) -> dict[str, str]:
        """What a reader must know of it."""
        runtime = self.cupy.cuda.runtime
        name = runtime.getDeviceProperties(self.cupy.cuda.Device().id)["name"].decode()
        return {
            "gpu": name,
            "driver": str(runtime.driverGetVersion()),
            "runtime": str(runtime.runtimeGetVersion()),
            "cupy": self.cupy.__version__,
        }


def measure(gpu: Gpu, case: Case, nbytes: int, rounds: int) -> Record:
    """Measure a kernel beside a copy."""
    count = nbytes // case.itemsize
    kernel, copy = case.prepare(CUDA, count), gpu.copy(nbytes)
    for call in (kernel, copy):
        gpu.seconds(call)  # compiles, and warms up
    times = [(gpu.seconds(copy), gpu.seconds(kernel)) for _ in range(rounds)]
    return record(case, nbytes, times)


def record(case: Case, nbytes: int, times: Sequence[tuple[tuple[float, bool], tuple[float, bool]]]) -> Record:
    """The record of rounds of (copy, kernel), each as (seconds, queued)."""
    copy, kernel = (np.array([one[which][0] for one in times]) for which in (0, 1))
    floor = case.floor * (nbytes // case.itemsize)
    shares = (floor / kernel) / (2 * nbytes / copy)
    low, high = np.percentile(shares, [10, 90])
    return Record(
        kernel=case.name,
        nbytes=nbytes,
        floor_nbytes=floor,
        time_us=float(np.median(kernel)) * 1e6,
        copy_GBps=2 * nbytes / float(np.median(copy)) / 1e9,
        share=float(np.median(shares)),
        share_p10_p90=(float(low), float(high)),
        rounds=len(times),
        queued=float(np.mean([first[1] and second[1] for first, second in times])),
    )


def table(records: Sequence[Record]) -> str:
    """Shares in markdown, a row per kernel and a column per size; * where Python was slower than the GPU."""
    sizes = sorted({each.nbytes for each in records})
    cells = {(each.kernel, each.nbytes): f"{each.share:.0%}{'' if each.queued == 1 else '*'}" for each in records}
    copies = {each.nbytes: f"{each.copy_GBps:.0f}" for each in records}
    rows = [["", *map(format_bytes, sizes)], ["---"] * (len(sizes) + 1)]
    rows.append(["copy [GB/s]", *(copies[nbytes] for nbytes in sizes)])
    for kernel in dict.fromkeys(each.kernel for each in records):
        rows.append([kernel, *(cells.get((kernel, nbytes), "-") for nbytes in sizes)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@click.command()
@click.option("--min-bytes", type=BYTES, default="1MiB", show_default=True, help="Smallest array.")
@click.option("--max-bytes", type=BYTES, default="1GiB", show_default=True, help="Largest array.")
@click.option("--step-factor", type=click.IntRange(2), default=4, show_default=True, help="From size to size.")
@click.option("--rounds", type=click.IntRange(1), default=30, show_default=True, help="Of copy and kernel in turn.")
@click.option("--kernel", "wanted", multiple=True, help="Only kernels with this in their name; may be repeated.")
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md.")
def main(
    min_bytes: int, max_bytes: int, step_factor: int, rounds: int, wanted: tuple[str, ...], out: Path | None
) -> None:
    """Measure which share of a device copy's bandwidth each kernel reaches."""
    if not 64 <= min_bytes <= max_bytes:
        raise click.UsageError(f"sizes from {min_bytes} to {max_bytes} bytes; at least 64, and the largest last")
    cases = [case for case in CASES if not wanted or any(part in case.name for part in wanted)]
    if not cases:
        raise click.UsageError(f"no kernel has {' or '.join(wanted)} in its name: {'; '.join(c.name for c in CASES)}")
    try:
        gpu = Gpu()
    except RuntimeError as error:
        raise click.ClickException(f"nothing was measured: {error}") from error
    records: list[Record] = []
    for case in cases:
        for nbytes in sizes(min_bytes, max_bytes, step_factor):
            needed = 2 * nbytes + case.memory * (nbytes // case.itemsize)
            if needed * 1.1 > gpu.free():
                click.echo(f"{case.name}: {format_bytes(nbytes)} left out, {format_bytes(needed)} do not fit", err=True)
                continue
            records.append(measure(gpu, case, nbytes, rounds))
    _report(records, gpu.describe(), out)


def sizes(smallest: int, largest: int, factor: int) -> list[int]:
    """Sizes in bytes from the smallest to at most the largest, multiples of 64."""
    found = []
    while smallest <= largest:
        found.append(smallest // 64 * 64)
        smallest *= factor
    return found


def _report(records: Sequence[Record], machine: dict[str, str], out: Path | None) -> None:
    command = f"python -m hpcdist.kernels.bench {shlex.join(sys.argv[1:])}".rstrip()
    text = f"`{command}`, {', '.join(f'{name} {value}' for name, value in machine.items())}\n\n{table(records)}"
    click.echo(text)
    if out is not None:
        whole = {"command": command, "machine": machine, "results": [asdict(each) for each in records]}
        write_text(out.with_suffix(".md"), text)
        write_text(out.with_suffix(".json"), typed_json.text(whole))


if __name__ == "__main__":
    main(prog_name="python -m hpcdist.kernels.bench")
