"""What checkpoints cost a training run.

    hpcdist run -n 4 -- python -m hpcdist.bench.overhead --out results/checkpoints/overhead

One trainer goes through periods of equally many steps, in turn without checkpoints, with checkpoints in the background,
and with checkpoints by a single writer for which all wait. A round has one period of each, the order is rotated and
reversed, and the figures are ratios within rounds, so that a drift of the machine cancels.
"""

from __future__ import annotations

import math
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_limits

from hpcdist.checkpoint import Store
from hpcdist.data import dataset
from hpcdist.models.mlp import MLP
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import on_root
from hpcdist.mpi.world import topology_of, world
from hpcdist.train.config import Config
from hpcdist.train.resume import execution
from hpcdist.train.saver import Saver
from hpcdist.train.setup import Run
from hpcdist.train.threads import share
from hpcdist.train.trainer import Trainer
from hpcdist.util import atomic_files, typed_json
from hpcdist.util.sampling import Spread, order
from hpcdist.util.sizes import BYTES, format_bytes

NONE, BACKGROUND, SINGLE = "no checkpoints", "background shards", "single writer, waiting"
KINDS = (NONE, BACKGROUND, SINGLE)
FEATURES, CLASSES, SAMPLES = 64, 10, 1024  # of the data, which are noise
WEIGHTS = FEATURES + 1 + CLASSES  # of each hidden unit
# A rate so small that so wide a model does not diverge, and a decay that changes every parameter in every step all the
# same: what has not changed since the checkpoint before is not written again.
STEADY: dict[str, Any] = {"learning_rate": 1e-6, "weight_decay": 1.0, "policy": "constant", "warmup": 0}
WARM_UP = 3  # steps


@dataclass(frozen=True)
class Period:
    """Steps of one kind: seconds of all, and of what they were held up by each checkpoint, on the slowest rank."""

    kind: str
    seconds: float
    blocking: list[float]


def hidden_units(nbytes: int) -> int:
    """Width of the hidden layer with which parameters and velocity, in float32, have at least so many bytes."""
    return math.ceil((nbytes / 8 - CLASSES) / WEIGHTS)


def save_after(steps: int, count: int) -> list[int]:
    """The steps of a period after which to save: `count` of them, the first half an interval from the beginning."""
    return [max(1, round((number + 0.5) * steps / count)) for number in range(count)]


class Bench:
    """A trainer with a store for each kind of period. All methods are collective."""

    def __init__(self, trainer: Trainer, stores: dict[str, Store]) -> None:
        self.trainer, self.stores = trainer, stores
        self.savers = {kind: Saver(Run(trainer, store, None), None) for kind, store in stores.items()}

    def seconds_per_step(self) -> float:
        """Measured after a warm-up, by rank 0's clock."""
        for _ in range(WARM_UP):
            self.trainer.step()
        began = time.perf_counter()
        for _ in range(WARM_UP):
            self.trainer.step()
        return self.trainer.comm.bcast((time.perf_counter() - began) / WARM_UP)

    def period(self, kind: str, steps: int, saves: int) -> Period:
        """Take the steps, with `saves` checkpoints if it is a kind that has them; all are committed at the end."""
        comm, saver = self.trainer.comm, self.savers.get(kind)
        after = save_after(steps, saves) if saver else []
        blocking = []
        comm.Barrier()
        began = time.perf_counter()
        for step in range(1, steps + 1):
            self.trainer.step()
            if saver and step in after:
                saved = time.perf_counter()
                saver.save()
                blocking.append(time.perf_counter() - saved)
        if kind in self.stores:
            self.stores[kind].wait()
        times = np.array([time.perf_counter() - began, *blocking])
        comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
        return Period(kind, float(times[0]), times[1:].tolist())


def rounds(bench: Bench, count: int, steps: int, saves: int) -> Iterator[dict[str, Period]]:
    """Periods of all kinds, `count` times, in an order that is rotated and reversed."""
    for number in range(count):
        yield {kind: bench.period(kind, steps, saves) for kind in order(KINDS, number)}


@dataclass(frozen=True)
class Cost:
    """What checkpoints of a kind cost.

    Attributes:
        kind: One of KINDS.
        blocking: Seconds for which a checkpoint held the run up.
        blocking_share: Of the time of the period.
        longer: How much longer a period was than that without checkpoints in the same round, as a share of it.
    """

    kind: str
    blocking: Spread
    blocking_share: Spread
    longer: Spread


def costs(found: list[dict[str, Period]]) -> list[Cost]:
    """The costs of all kinds that have any, over the rounds."""
    return [
        Cost(
            kind,
            Spread.of([seconds for each in found for seconds in each[kind].blocking]),
            Spread.of([sum(each[kind].blocking) / each[kind].seconds for each in found]),
            Spread.of([each[kind].seconds / each[NONE].seconds - 1 for each in found]),
        )
        for kind in (BACKGROUND, SINGLE)
    ]


def text(command: str, where: dict[str, Any], config: dict[str, Any], found: list[Cost]) -> str:
    """The report as Markdown."""
    lines = [
        "# What checkpoints cost a training run",
        "",
        f"    {command}",
        "",
        f"{where['ranks']} ranks, {where['mpi']}, {where['cores_per_host']} cores of {where['cpu']}. A multi-layer "
        f"perceptron with {format_bytes(config['state'])} of parameters and momentum, {config['seconds_per_step']:.2f} "
        f"s a step; {config['rounds']} rounds of periods of {config['steps']} steps with {config['saves']} checkpoints "
        "each. Median, and in brackets the range of the middle 80 %, of checkpoints in the first column, of rounds in "
        "the others.",
        "",
        "| checkpoints | held up by one [s] | held up, share of the run | run longer by |",
        "|---|---|---|---|",
    ]
    for cost in found:
        held = f"{cost.blocking.median:.3f} ({cost.blocking.low:.3f}-{cost.blocking.high:.3f})"
        lines.append(f"| {cost.kind} | {held} | {percent(cost.blocking_share)} | {percent(cost.longer)} |")
    return "\n".join(lines) + "\n"


def percent(part: Spread) -> str:
    """Median and range."""
    return f"{100 * part.median:.2f} % ({100 * part.low:.2f} to {100 * part.high:.2f})"


@click.command()
@click.option("--state", type=BYTES, default="512MiB", show_default=True, help="Parameters and momentum, at least.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Samples per step.")
@click.option("--every", type=click.FloatRange(min=0.1), default=30, show_default=True, help="Seconds between saves.")
@click.option("--seconds", type=click.FloatRange(min=0.1), default=90, show_default=True, help="Of a period, about.")
@click.option("--rounds", "count", type=click.IntRange(min=1), default=3, show_default=True)
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    default=".",
    show_default=True,
    help="A folder on the file system to be measured; what is written there is removed.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write OUT.json and OUT.md.")
def main(state: int, batch: int, every: float, seconds: float, count: int, scratch: Path, out: Path | None) -> None:
    """Measure what checkpoints cost a data-parallel training run."""
    comm = world()
    where = machine.describe(comm, topology_of(comm))
    with _folder(comm, scratch) as folder, _bench(comm, state, batch, folder) as bench:
        per_step = bench.seconds_per_step()
        steps, saves = max(1, math.ceil(seconds / per_step)), max(1, round(seconds / every))
        found = list(rounds(bench, count, steps, saves))
        nbytes = sum(values.nbytes for values in bench.trainer.arrays().values())
    if comm.rank != 0:
        return
    command = f"hpcdist run -n {comm.size} -- python -m hpcdist.bench.overhead {shlex.join(sys.argv[1:])}".rstrip()
    config: dict[str, Any] = {"state": nbytes, "batch": batch, "rounds": count, "steps": steps, "saves": saves}
    config["seconds_per_step"] = per_step
    words = text(command, where, config, costs(found))
    click.echo(words)
    if out is not None:
        periods = [{kind: asdict(period) for kind, period in each.items()} for each in found]
        results = {"costs": [asdict(cost) for cost in costs(found)], "rounds": periods}
        everything = {"command": command, "machine": where, "config": config, **results}
        atomic_files.write_text(out.with_suffix(".json"), typed_json.text(everything))
        atomic_files.write_text(out.with_suffix(".md"), words)


@contextmanager
def _bench(comm: MPI.Intracomm, nbytes: int, batch: int, folder: Path) -> Iterator[Bench]:
    """A trainer on noise, with stores in `folder`."""
    config = Config(data=str(folder / "noise.h5"), batch=batch, epochs=10**6, **STEADY)
    on_root(comm, lambda: _write_noise(Path(config.data)))
    with dataset.Dataset(Path(config.data)) as data:
        model = MLP(data.sample_shape, data.classes, hidden=hidden_units(nbytes))
        trainer = Trainer(comm, config, model, data, execution(config, comm.size, share(comm), None))
        stores = {
            BACKGROUND: Store(comm, folder / "background"),
            SINGLE: Store(comm, folder / "single", layout="single", background=False),
        }
        with threadpool_limits(trainer.execution.threads, "blas"):
            yield Bench(trainer, stores)
        for store in stores.values():  # not in a finally: closing is collective, and an exception may be this rank's
            store.close()
        trainer.close()


def _write_noise(path: Path) -> None:
    generator = np.random.default_rng(0)
    samples = generator.standard_normal((SAMPLES, FEATURES), np.float32), generator.integers(0, CLASSES, SAMPLES)
    with h5py.File(path, "w") as file:
        dataset.write(file, train=samples, test=(samples[0][:64], samples[1][:64]), classes=CLASSES)


@contextmanager
def _folder(comm: MPI.Intracomm, scratch: Path) -> Iterator[Path]:
    """A folder of our own below `scratch`, which is removed at the end."""
    folder = Path(on_root(comm, lambda: tempfile.mkdtemp(prefix="hpcdist-overhead-", dir=scratch)))
    try:
        yield folder
    finally:
        if comm.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
