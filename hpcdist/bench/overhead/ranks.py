"""What the ranks do: one trainer that goes through periods of equally many steps.

It does so in turn without checkpoints, with checkpoints in the background, and with checkpoints by a single writer for
which all wait. A round has one period of each, the order is rotated and reversed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from mpi4py import MPI
from threadpoolctl import threadpool_limits

from hpcdist.bench import findings
from hpcdist.bench.findings import Findings
from hpcdist.bench.overhead.report import BACKGROUND, KINDS, SINGLE, Part, Period
from hpcdist.bench.sampling import slowest
from hpcdist.checkpoint import Store
from hpcdist.data import dataset
from hpcdist.models.mlp import MLP
from hpcdist.mpi.collective_errors import on_root
from hpcdist.train.config import Config
from hpcdist.train.resume import execution
from hpcdist.train.saver import Saver
from hpcdist.train.setup import Run
from hpcdist.train.threads import share
from hpcdist.train.trainer import Trainer
from hpcdist.util.sampling import order

FEATURES, CLASSES, SAMPLES = 64, 10, 1024  # of the data, which are noise
WEIGHTS = FEATURES + 1 + CLASSES  # of each hidden unit
# A rate so small that so wide a model does not diverge, and a decay that changes every parameter in every step all the
# same: what has not changed since the checkpoint before is not written again.
STEADY: dict[str, Any] = {"learning_rate": 1e-6, "weight_decay": 1.0, "policy": "constant", "warmup": 0}
WARM_UP = 3  # steps


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
        seconds, *blocking = slowest(comm, time.perf_counter() - began, *blocking)
        return Period(kind, seconds, blocking)


def work(
    found: Findings[Part], state: int, batch: int, every: float, seconds: float, rounds: int, scratch: str
) -> None:
    """All rounds."""
    with _bench(found.comm, state, batch, Path(found.comm.bcast(scratch))) as bench:
        part, per_step = found.part, bench.seconds_per_step()
        part.seconds_per_step, part.state = per_step, sum(values.nbytes for values in bench.trainer.arrays().values())
        part.steps, part.saves = max(1, math.ceil(seconds / per_step)), max(1, round(seconds / every))
        for number in range(rounds):
            part.rows += [bench.period(kind, part.steps, part.saves) for kind in order(KINDS, number)]
            found.write()


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


if __name__ == "__main__":
    findings.main(work, Part)
