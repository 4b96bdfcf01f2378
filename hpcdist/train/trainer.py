"""One step of synchronous data-parallel SGD, and the state that it changes.

Every rank computes the gradients of its part of the batch; one all-reduce adds them up; then every rank
takes the same step with the same numbers, so that the parameters stay equal on all ranks, bit for bit,
without being sent.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from mpi4py import MPI

from hpcdist.collectives import calls
from hpcdist.collectives.decide import is_shared
from hpcdist.collectives.plan import Plan
from hpcdist.data.dataset import Dataset
from hpcdist.data.sampler import Sampler, part
from hpcdist.device.host import CPU, Host
from hpcdist.device.kinds import Device
from hpcdist.errors import AgreedError, ArgumentError
from hpcdist.models import Model
from hpcdist.optim.policy import learning_rate
from hpcdist.optim.sgd import SGD
from hpcdist.train.config import Config
from hpcdist.train.log import Row
from hpcdist.train.room import room_for
from hpcdist.transport.mpi import transport_of


@dataclass(frozen=True)
class Execution:
    """How gradients come about. Fixing it fixes the order of all additions, and so every bit of a run."""

    ranks: int
    algorithm: str
    segment_nbytes: int | None
    topology: tuple[int, ...] | None
    threads: int
    device: str = CPU


class Trainer:
    """A model in training: `step()` by step.

    Args:
        comm: All ranks that train together.
        config: The settings.
        model: What to train.
        data: Open on every rank.
        execution: How to add up gradients; its algorithm may be "auto".
        device: Where this rank computes; by default its processor, in host memory.
    """

    def __init__(
        self,
        comm: MPI.Intracomm,
        config: Config,
        model: Model,
        data: Dataset,
        execution: Execution,
        device: Device | None = None,
    ) -> None:
        self.comm, self.config, self.model, self.data = comm, config, model, data
        self.device = device = device or Host()
        self.sampler = Sampler(data.sizes["train"], config.batch, config.seed)
        self.parameters = device.put(self.model.initialize(config.seed))
        self.optimizer = SGD(self.parameters, momentum=config.momentum, weight_decay=config.weight_decay)
        self.done = 0  # steps
        self.notes: list[str] = []  # what to know of where it runs

        # What the ranks add up in a step: their gradients, and in the tail their loss, the number of samples
        # classified right, and whether they were asked to stop. It all goes in one message.
        wanted = (self.model.size + 3, np.float32), (2, np.float64)
        (self.buffer, self.scores), apart = room_for(comm, device, config, execution.algorithm, wanted)
        if apart:
            self.notes.append(f"gradients are not added up in shared memory: {apart}")
        self.gradient, self.tail = self.buffer[: self.model.size], self.buffer[self.model.size :]
        self.plan = self._plan(execution)
        self.score_plan = calls.plan(  # for loss and right answers on the test set
            comm, self.scores, algorithm=self.plan.algorithm, topology=self.plan.topology, path=config.path
        )
        self.execution = replace(
            execution,
            algorithm=self.plan.algorithm,
            segment_nbytes=self.plan.segment_nbytes,
            topology=tuple(self.plan.topology),
            device=device.kind,
        )
        tested = np.arange(data.sizes["test"])
        self.test = self._read("test", tested[part(len(tested), comm.rank, comm.size)])

    def _plan(self, execution: Execution) -> Plan:
        """How to add up gradients; chosen anew if it was in memory that the ranks cannot share any more. Collective."""
        config = self.config
        # A segment was chosen for a network, which another placement of the ranks does not have.
        moved = execution.topology not in (None, transport_of(self.comm).topology)
        try:
            return calls.plan(
                self.comm,
                self.buffer,
                algorithm=execution.algorithm,
                segment_nbytes=config.segment_nbytes if moved else execution.segment_nbytes,
                topology=execution.topology,
                selection=config.selection or None,
                path=config.path,
            )
        except ArgumentError:
            fresh = replace(execution, algorithm=config.algorithm, segment_nbytes=config.segment_nbytes, topology=None)
            if fresh == execution or not is_shared(execution.algorithm):
                raise
            return self._plan(fresh)

    def _read(self, split: str, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Samples where the model computes."""
        x, y = self.data.read(split, indices)
        return self.device.put(x), self.device.put(y)

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.config.epochs * self.sampler.steps_per_epoch

    @property
    def sends_messages(self) -> bool:
        """Whether gradients travel in messages, and not only through memory that ranks share."""
        apart = not (self.plan.executor == "bounce_buffers" or self.plan.in_shared_memory)
        return len(set(self.plan.topology)) > 1 or (apart and self.comm.size > 1)

    def step(self, stop: bool = False) -> tuple[Row, bool]:
        """Take one step. Collective.

        Args:
            stop: Whether this rank was asked to stop.

        Returns:
            The row for the log, and whether any rank was asked to stop.

        Raises:
            AgreedError: on all ranks, if the loss is no longer a number.
        """
        began = time.perf_counter()
        batch = self.sampler.indices(self.done)
        x, y = self._read("train", batch[part(len(batch), self.comm.rank, self.comm.size)])
        with np.errstate(all="ignore"):  # what comes of it is looked at
            loss, correct = self.model.loss_and_gradient(self.parameters, x, y, self.gradient)
        self.tail[0], self.tail[1], self.tail[2] = loss, correct, stop

        self.plan()  # from here on, the buffer holds the sums over all ranks

        loss, correct, stops = self.device.get(self.tail).tolist()  # here the host waits for the device
        if not math.isfinite(loss):
            raise self._diverged(f"the loss became {loss} in step {self.done + 1}")
        rate = self.learning_rate()
        self.gradient /= len(batch)
        self.optimizer.step(self.gradient, rate)
        epoch, _ = self.sampler.position(self.done)
        self.done += 1
        seconds = time.perf_counter() - began
        row = Row(self.done, epoch + 1, loss / len(batch), correct / len(batch), rate, seconds)
        return row, stops > 0

    def learning_rate(self) -> float:
        """Learning rate of the next step."""
        peak, warmup = self.config.learning_rate, self.config.warmup
        return learning_rate(self.config.policy, self.done, peak=peak, warmup=warmup, total=self.total)

    def check_parameters(self) -> None:
        """See that all parameters are numbers.

        Raises:
            AgreedError: on all ranks, if they are not.
        """
        if not np.isfinite(self.parameters).all():
            raise self._diverged(f"parameters are not finite after step {self.done}")

    def _diverged(self, what: str) -> AgreedError:
        """For all ranks at once, as what is checked is the same on all."""
        return AgreedError(
            f"{what}: training diverged; lower --learning-rate ({self.config.learning_rate:g}) or raise "
            f"--warmup ({self.config.warmup} steps)"
        )

    def evaluate(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test set, of which every rank takes its part. Collective.

        Raises:
            AgreedError: on all ranks, if the loss is no longer a number.
        """
        with np.errstate(all="ignore"):
            self.scores[0], self.scores[1] = self.model.loss(self.parameters, *self.test)
        self.score_plan()
        loss, correct = self.device.get(self.scores).tolist()
        if not math.isfinite(loss):
            raise self._diverged(f"the test loss became {loss} after step {self.done}")
        return loss / self.data.sizes["test"], correct / self.data.sizes["test"]

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays that a checkpoint holds, where they are; they are the same on all ranks."""
        state = self.optimizer.state()
        return {"parameters": self.parameters} | {f"optimizer/{name}": state[name] for name in state}

    def facts(self) -> dict[str, Any]:
        """The rest that a checkpoint holds."""
        epoch, place = self.sampler.position(self.done)
        return {
            "position": {"epoch": epoch, "step_in_epoch": place},
            "random": self.sampler.random_state(self.done),
            "data": {"path": str(self.data.path), "digest": self.data.digest},
            "configuration": self.config.lasting(),
            "execution": asdict(self.execution),
        }

    def arrays_at(self, step: int) -> dict[str, np.ndarray]:
        """The arrays, to be filled with the state after `step` steps, from which the run then goes on."""
        self.done = step
        return self.arrays()

    def close(self) -> None:
        """Close the plans, and give shared memory back. Collective."""
        self.score_plan.close()
        self.plan.close()
        if self.plan.in_shared_memory:
            del self.buffer, self.gradient, self.tail, self.scores
            calls.release(self.comm)
