"""Training on a device beside training on the processor: the same tests for the simulated device and for GPUs.

Who imports them gives three fixtures: `kind`, the name of a kind of device, `path`, on which its gradients travel, and
`slow`, a call that keeps it busy for a while.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI
from rich.console import Console
from train_folders import *  # noqa: F403
from training import SHORT, die_after, train

from hpcdist.checkpoint import Store, committed, look, read
from hpcdist.checkpoint.partner import PartnerCopies
from hpcdist.data.dataset import write
from hpcdist.device.kinds import by_name
from hpcdist.errors import AgreedError
from hpcdist.models import MODELS
from hpcdist.train import setup
from hpcdist.train.config import Config
from hpcdist.train.log import Row
from hpcdist.train.trainer import Execution, Trainer

COMM = MPI.COMM_WORLD
BRIEF: dict[str, Any] = {"epochs": 1, "checkpoint_every": 5, "keep": 99}  # 15 steps


def losses(log: list[Row]) -> list[float]:
    return [row.loss for row in log] + [row.test_loss for row in log if row.test_loss is not None]


def close(log: list[Row], other: list[Row]) -> bool:
    """Whether two runs are one but for rounding."""
    steps = [[(row.step, row.learning_rate) for row in each] for each in (log, other)]
    return steps[0] == steps[1] and losses(log) == pytest.approx(losses(other), rel=2e-5)


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_those_of_the_processor_to_rounding(shared: Path, kind: str, path: str, model: str) -> None:
    here = train(shared / "here", model=model, epochs=1)
    there = train(shared / "there", model=model, epochs=1, device=kind, path=path)
    assert close(there, here)


def test_all_ranks_hold_the_same_bits(kind: str, path: str) -> None:
    config = Config(**{**SHORT, "batch": 7, "device": kind, "path": path})
    with setup.open_data(COMM, config) as data:
        model = MODELS["mlp"](data.sample_shape, data.classes)
        trainer = Trainer(COMM, config, model, data, Execution(COMM.size, "auto", None, None, 1), by_name(kind))
        for _ in range(5):
            trainer.step()
        assert trainer.plan.path == path
        assert len(set(COMM.allgather(trainer.device.get(trainer.parameters).tobytes()))) == 1
        trainer.close()


def test_batches_smaller_than_the_number_of_ranks(shared: Path, kind: str) -> None:
    few = {"data": str(small_data(shared)), "batch": 1, "epochs": 2, "learning_rate": 0.01}
    assert close(train(shared / "there", device=kind, **few), train(shared / "here", **few))


def small_data(folder: Path) -> Path:
    """A data set of a few samples."""
    if COMM.rank == 0:
        generator = np.random.default_rng(0)
        x, y = generator.random((12, 4, 4), np.float32), generator.integers(0, 3, 12)
        with h5py.File(folder / "small.h5", "w") as file:
            write(file, train=(x[:9], y[:9]), test=(x[9:], y[9:]), classes=3)
    COMM.Barrier()
    return folder / "small.h5"


def test_resuming_on_the_device_goes_on_bit_for_bit(shared: Path, kind: str) -> None:
    whole = train(shared / "whole", device=kind, **BRIEF)
    for checkpoint in committed(shared / "whole" / "checkpoints"):
        again = train(shared / checkpoint.name, device=kind, epochs=1, resume=str(checkpoint))
        assert again == whole[look(checkpoint).step :]


@pytest.mark.parametrize("to_device", [False, True], ids=["to the processor", "to the device"])
def test_resuming_elsewhere_is_equal_to_rounding_and_said(
    shared: Path, kind: str, to_device: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = ("cpu", kind) if to_device else (kind, "cpu")
    whole = train(shared / "whole", device=first, **BRIEF)
    checkpoint = shared / "whole" / "checkpoints" / "step-00000005"
    after = train(shared / "after", console=Console(), device=second, epochs=1, resume=str(checkpoint))
    assert close(after, whole[5:])
    if COMM.rank == 0:
        assert f"on the device {second} after {first}: equal to rounding, not bit for bit" in capsys.readouterr().out


def test_going_on_elsewhere_must_be_meant(shared: Path, kind: str) -> None:
    train(shared, device=kind, **BRIEF)
    with pytest.raises(AgreedError, match=f"was computed with --device {kind}: give that again, or --device cpu"):
        train(shared, resume="auto", epochs=1)


@pytest.mark.parametrize("how", [{}, {"checkpoint_mode": "wait"}, {"checkpoint_layout": "single"}], ids=str)
def test_how_checkpoints_are_written_changes_no_bit(shared: Path, kind: str, how: dict[str, Any]) -> None:
    train(shared / "there", device=kind, checkpoint_writers=COMM.size, **BRIEF, **how)
    train(shared / "other", device=kind, **BRIEF)
    COMM.Barrier()
    state, other = (read(look(shared / run / "checkpoints" / "step-00000010")) for run in ("there", "other"))
    assert {name: array.tobytes() for name, array in state.items()} == {
        name: array.tobytes() for name, array in other.items()
    }


@pytest.mark.parametrize("background", [False, True], ids=["waiting", "in the background"])
def test_a_checkpoint_is_of_the_moment_when_it_was_asked_for(
    shared: Path, kind: str, slow: Callable[[], None], background: bool
) -> None:
    device = by_name(kind)
    values = np.arange(120_000, dtype=np.float32).reshape(300, 400)
    arrays = {"values": device.put(values), "none": device.put(values[:0]), "number": device.put(np.array(7))}
    with Store(COMM, shared, background=background) as store:
        for step in range(1, 4):
            slow()
            arrays["values"] += 1  # after that
            store.save(step, arrays, {})
            arrays["values"] *= 2
            values = (values + 1) * 2
        store.wait()
        checkpoint, _ = store.newest()
        assert checkpoint
        np.testing.assert_array_equal(read(checkpoint)["values"], values / 2)
        slow()
        arrays["values"][...] = 0
        store.restore(checkpoint, arrays)
    np.testing.assert_array_equal(device.get(arrays["values"]), values / 2)
    assert device.get(arrays["number"]) == 7


def test_an_array_with_gaps_is_everybodys_error(shared: Path, kind: str) -> None:
    whole = by_name(kind).put(np.arange(12.0).reshape(3, 4))
    with Store(COMM, shared) as store:
        with pytest.raises(AgreedError, match="ValueError: part is on a device and has gaps"):
            store.save(1, {"part": whole[:, :2]}, {})
        store.save(1, {"part": whole}, {})
        checkpoint, _ = store.newest() if store.wait() else (None, [])
        with pytest.raises(AgreedError, match="cannot be read into an array that is not C-contiguous"):
            store.restore(checkpoint, {"part": by_name(kind).put(np.empty((4, 3))).T})


def test_copies_in_the_memory_of_the_nodes(shared: Path, kind: str, slow: Callable[[], None]) -> None:
    device = by_name(kind)
    values = np.arange(60_000, dtype=np.float32).reshape(300, 200)
    arrays = {"values": device.put(values), "number": device.put(np.array(7))}
    copies = PartnerCopies(COMM, "device", shared)
    slow()
    arrays["values"] += 1
    copies.save(3, arrays, {})
    slow()
    arrays["values"] *= 0
    found = copies.newest()
    assert found
    copies.restore(found, arrays)
    np.testing.assert_array_equal(device.get(arrays["values"]), values + 1)
    assert device.get(arrays["number"]) == 7
    copies.forget()
    copies.close()


def test_a_run_goes_on_from_the_memory_of_the_nodes(shared: Path, kind: str) -> None:
    whole = train(shared / "whole", device=kind, epochs=1)
    settings = {"epochs": 1, "device": kind, "partner_every": 3, "partner_dir": str(shared)}
    die_after(11, shared / "out", **settings)
    assert train(shared / "out", resume="auto", **settings) == whole
    assert json.loads((shared / "out" / "summary.json").read_text())["resumed_from"] == 9
