"""Training on every number of ranks: the same losses, the same bits, and errors that reach everybody."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI
from rich.console import Console
from train_folders import *  # noqa: F403
from training import SHORT, die_after, rows, train

import hpcdist
from hpcdist.algorithms import ALLREDUCE, SHARED
from hpcdist.checkpoint import Fence, committed, look, read
from hpcdist.checkpoint.fence import OWNER
from hpcdist.checkpoint.partner import PartnerCopies
from hpcdist.checkpoint.writer import claim
from hpcdist.data import dataset
from hpcdist.data.dataset import Dataset
from hpcdist.device import local
from hpcdist.device.host import Host
from hpcdist.device.kinds import KINDS
from hpcdist.errors import AgreedError
from hpcdist.models import MODELS
from hpcdist.mpi import machine
from hpcdist.mpi.collective_errors import on_root
from hpcdist.train import loop, setup
from hpcdist.train.config import Config
from hpcdist.train.log import Log, Row
from hpcdist.train.signals import StopRequest
from hpcdist.train.trainer import Execution, Trainer
from hpcdist.transport import shared_memory
from hpcdist.transport.mpi import transport_of
from hpcdist.tuning.auto import ENVIRONMENT
from hpcdist.tuning.table import Bracket, Rule, Selection

pytest.importorskip("sklearn", reason="trains on the digits")
pytestmark = pytest.mark.mpi

COMM = MPI.COMM_WORLD


def make_trainer(data: Dataset, comm: MPI.Intracomm = COMM, **settings: Any) -> Trainer:
    config = Config(**{**SHORT, **settings})
    model = MODELS[config.model](data.sample_shape, data.classes)
    return Trainer(comm, config, model, data, Execution(comm.size, "auto", None, None, 1))


@pytest.fixture(scope="module")
def whole(cache: None) -> list[Row]:
    """The log of a run that nothing befell."""
    with tempfile.TemporaryDirectory() as folder:
        log = train(Path(COMM.bcast(folder)))
        COMM.Barrier()
    return log


@pytest.fixture
def data() -> Iterator[Dataset]:
    with setup.open_data(COMM, Config()) as opened:
        yield opened


@pytest.mark.parametrize("algorithm", ["ring", "binary_blocks"])
def test_digits_are_learnt(shared: Path, algorithm: str) -> None:
    train(shared, epochs=6, batch=32, warmup=40, algorithm=algorithm)
    summary = json.loads((shared / "summary.json").read_text())
    assert summary["completed"]
    assert summary["test_accuracy"] >= 0.96
    assert summary["execution"]["algorithm"] == algorithm


@pytest.mark.paired
@pytest.mark.parametrize("model", ["softmax", "mlp", "convnet"])
@pytest.mark.parametrize("algorithm", ALLREDUCE)
def test_losses_are_those_of_one_rank_to_rounding(shared: Path, algorithm: str, model: str) -> None:
    together = train(shared / "together", algorithm=algorithm, model=model, epochs=1)
    alone = train(shared / f"alone-{COMM.rank}", MPI.COMM_SELF, model=model, epochs=1)
    assert execution(shared / "together")["algorithm"] == algorithm
    for a, b in zip(together, alone, strict=True):
        assert (a.step, a.learning_rate) == (b.step, b.learning_rate)
        assert a.loss == pytest.approx(b.loss, rel=2e-5)
    assert together[-1].test_loss == pytest.approx(alone[-1].test_loss, rel=2e-5)


def test_the_test_set_is_met_at_the_end_of_each_epoch(shared: Path) -> None:
    met = [row for row in train(shared) if row.test_loss is not None]
    assert [(row.epoch, row.step) for row in met] == [(1, 15), (2, 30)]
    summary = json.loads((shared / "summary.json").read_text())
    assert met[-1].test_loss == pytest.approx(summary["test_loss"])
    assert met[-1].test_accuracy == pytest.approx(summary["test_accuracy"])
    assert met[-1].test_loss != pytest.approx(met[-1].test_accuracy)


def test_only_rank_0_reports_and_only_where_it_was_told_to(shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = io.StringIO()
    train(shared, console=Console(file=said), epochs=1)
    assert capsys.readouterr() == ("", "")
    assert ("test accuracy" in said.getvalue()) == (COMM.rank == 0)


def test_the_same_run_gives_the_same_bits(shared: Path) -> None:
    assert train(shared / "first") == train(shared / "second")


@pytest.mark.every_size
def test_all_ranks_hold_the_same_bits(data: Dataset) -> None:
    trainer = make_trainer(data, batch=7)
    for _ in range(5):
        trainer.step()
    assert len(set(COMM.allgather(trainer.parameters.tobytes()))) == 1
    trainer.close()


@pytest.mark.every_size
def test_batches_smaller_than_the_number_of_ranks(data: Dataset) -> None:
    together, alone = make_trainer(data, batch=1), make_trainer(data, MPI.COMM_SELF, batch=1)
    for _ in range(20):
        assert together.step()[0].loss == pytest.approx(alone.step()[0].loss, rel=1e-4)
    together.close()
    alone.close()


def test_resuming_goes_on_bit_for_bit(shared: Path) -> None:
    whole = train(shared / "whole", checkpoint_every=7, keep=99)
    for path in committed(shared / "whole" / "checkpoints"):
        out = shared / path.name
        assert train(out, resume=str(path)) == whole[look(path).step :]


@pytest.mark.every_size
def test_resuming_on_another_number_of_ranks(shared: Path) -> None:
    before = train(shared / "before", checkpoint_every=10, keep=99)
    path = shared / "before" / "checkpoints" / "step-00000010"
    if COMM.rank:
        return
    after = train(shared / "alone", MPI.COMM_SELF, resume=str(path))
    assert [row.step for row in after] == list(range(11, 31))
    assert [row.loss for row in after] == pytest.approx([row.loss for row in before[10:]], rel=2e-5)


def test_resuming_uses_the_stored_algorithm_instead_of_choosing_again(shared: Path) -> None:
    train(shared, checkpoint_every=10)
    chosen = json.loads((shared / "summary.json").read_text())["execution"]
    path = committed(shared / "checkpoints")[0]
    stored = look(path).facts["execution"]
    assert {**stored, "threads": 0} == {**chosen, "threads": 0}
    assert stored["algorithm"] in (*ALLREDUCE, SHARED)
    assert len(stored["topology"]) == COMM.size


def execution(out: Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())["execution"]


def test_ranks_of_a_node_add_up_gradients_in_shared_memory(shared: Path) -> None:
    by_itself = train(shared / "auto", epochs=1)
    assert (execution(shared / "auto")["algorithm"] == SHARED) == (COMM.size > 1)
    asked = train(shared / "asked", epochs=1, algorithm=SHARED)
    assert execution(shared / "asked")["algorithm"] == SHARED
    assert asked == by_itself


def test_a_table_is_asked_before_memory_is_shared(shared: Path) -> None:
    table = shared / "table.json"
    if COMM.rank == 0:
        Selection((Rule(COMM.size, 1, "float32", (Bracket(None, "tree"),)),)).write(table)
    COMM.Barrier()
    train(shared / "out", epochs=1, selection=str(table))
    assert execution(shared / "out")["algorithm"] == "tree"


@pytest.mark.parametrize("asked", ["", "tree"], ids=["without a table", "with a table"])
def test_a_table_that_comes_or_goes_changes_nothing_of_a_run_that_goes_on(
    shared: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    table = shared / "table.json"
    if COMM.rank == 0:
        Selection((Rule(COMM.size, 1, "float32", (Bracket(None, "tree"),)),)).write(table)
    COMM.Barrier()
    with monkeypatch.context() as patch:
        patch.setenv(ENVIRONMENT, str(table) if asked else "")
        whole = train(shared / "whole", checkpoint_every=10)
    if asked:
        assert execution(shared / "whole")["algorithm"] == asked
    monkeypatch.setenv(ENVIRONMENT, "" if asked else str(table))
    after = train(shared / "next", resume=str(shared / "whole" / "checkpoints" / "step-00000010"))
    assert after == whole[10:]
    assert execution(shared / "next") == execution(shared / "whole")


@pytest.mark.skipif(COMM.size == 1, reason="one rank shares memory with nobody")
@pytest.mark.parametrize("last", [16, shared_memory.SLOTS * shared_memory.LINE], ids=["an array", "flags"])
def test_what_was_shared_before_the_room_ended_is_given_back(
    data: Dataset, monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    allocate, ended = shared_memory.Home.allocate, []

    def until(home: shared_memory.Home, nbytes: int, what: str, **how: Any) -> Any:
        if nbytes == last or ended:
            ended.append(what)
            raise AgreedError("no room")
        return allocate(home, nbytes, what, **how)

    monkeypatch.setattr(shared_memory.Home, "allocate", until)
    monkeypatch.setattr(shared_memory.Home, "_shortage", lambda *_: "no room" if ended else None)
    comm = COMM.Dup()
    trainer = make_trainer(data, comm)
    assert trainer.plan.algorithm in ALLREDUCE
    assert trainer.notes == ["gradients are not added up in shared memory: no room"]
    assert transport_of(comm).home.windows == []
    trainer.close()
    with pytest.raises(AgreedError, match="no room"):
        make_trainer(data, comm, algorithm=SHARED)
    comm.Free()


@pytest.mark.skipif(COMM.size == 1, reason="one rank shares memory with nobody")
def test_without_room_to_share_messages_are_sent_and_that_is_said(
    shared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(shared / "whole", checkpoint_every=10)
    monkeypatch.setattr(shared_memory, "free_memory", lambda where: (0, 0))
    resumed = {**SHORT, "out": str(shared / "next"), "resume": str(shared / "whole" / "checkpoints" / "step-00000010")}
    loop.train(COMM, resumed, Console())
    assert execution(shared / "next")["algorithm"] in ALLREDUCE
    assert [row.loss for row in rows(shared / "next")] == pytest.approx([row.loss for row in whole[10:]], rel=2e-5)
    if COMM.rank == 0:
        said = capsys.readouterr().out
        assert "note: gradients are not added up in shared memory: " in said
        assert "of shared memory, but" in said
        assert f"gradients are added up in another order (algorithm {SHARED} -> " in said
    with pytest.raises(AgreedError, match="of shared memory, but"):
        train(shared / "asked", algorithm=SHARED)


def test_a_run_gives_its_shared_memory_back(data: Dataset) -> None:
    hpcdist.release(COMM)  # what earlier tests have left
    make_trainer(data, algorithm=SHARED).close()
    assert hpcdist.release(COMM) == 0


def test_stop_asked_of_one_rank_stops_all_with_a_checkpoint(whole: list[Row], shared: Path) -> None:
    class Asked:
        requested = COMM.rank == COMM.size - 1

    out = shared / "stopped"
    settings = {**SHORT, "out": str(out)}
    fence = on_root(COMM, lambda: claim(Config(**settings).checkpoints))
    with setup.started(COMM, settings, fence, Console(quiet=True), explain=False) as run:
        results = setup.open_results(run.store, run.trainer, Console(quiet=True))
        outcome = loop.steps(run, results, Asked())  # type: ignore[arg-type]
    if results:
        results.close()
    assert (outcome.completed, outcome.steps) == (False, 1)  # even if asked at once, it gets one step further
    COMM.Barrier()
    assert not (out / "summary.json").exists()
    assert train(out, resume="auto") == whole


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_a_request_to_stop(shared: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def signalled(trainer: Trainer, stop: bool) -> tuple[Row, bool]:
        if trainer.done == 11 and COMM.rank == COMM.size - 1:
            os.kill(os.getpid(), number)
        return step(trainer, stop)

    monkeypatch.setattr(Trainer, "step", signalled)
    with StopRequest() as stop:
        outcome = loop.train(COMM, {**SHORT, "out": str(shared)}, stop=stop)
    assert not outcome.completed
    assert outcome.steps in (12, 13)  # the rank may have looked just before
    assert [look(path).step for path in committed(shared / "checkpoints")] == [outcome.steps]


def test_a_checkpoint_that_cannot_be_written_is_everybodys_error(shared: Path) -> None:
    if COMM.rank == 0:
        (shared / "file").touch()
    COMM.Barrier()
    with pytest.raises(AgreedError, match="rank 0"):
        train(shared, checkpoint_dir=str(shared / "file" / "checkpoints"))


def test_a_device_that_one_rank_lacks_is_everybodys_error(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Host:
        raise RuntimeError("there is none here")

    monkeypatch.setitem(KINDS, "rare", fail if COMM.rank == COMM.size - 1 else Host)
    with pytest.raises(AgreedError, match=f"rank {COMM.size - 1}: RuntimeError: there is none here"):
        train(shared, device="rare")
    assert not (shared / "checkpoints").exists()


@pytest.mark.parametrize("seen", [["gpu 0"], [f"gpu {number}" for number in range(COMM.size)]], ids=["one", "enough"])
def test_ranks_that_share_a_gpu_are_named(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    """An error if there is one for each, else a note."""
    monkeypatch.setattr(local, "booking", lambda device: local.Booking("gpu 0", tuple(seen)))
    gpu = SimpleNamespace(kind="cuda")
    if COMM.size == 1:
        assert machine.sharing(COMM, gpu) == []
    elif len(seen) == 1:
        assert len(machine.sharing(COMM, gpu)) == 1
        assert "share GPU gpu 0, of 1 for" in machine.sharing(COMM, gpu)[0]
    else:
        with pytest.raises(AgreedError, match=f"share GPU gpu 0, of {COMM.size} for {COMM.size} ranks"):
            machine.sharing(COMM, gpu)
    assert machine.sharing(COMM, Host()) == []


def test_being_replaced_by_another_run_is_everybodys_error(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def replaced(trainer: Trainer, stop: bool) -> tuple[Row, bool]:
        if trainer.done == 12 and COMM.rank == 0:
            Fence(shared / "checkpoints")
        return step(trainer, stop)

    monkeypatch.setattr(Trainer, "step", replaced)
    with pytest.raises(AgreedError, match="taken over by another run"):
        train(shared, checkpoint_every=10, checkpoint_mode="wait")
    assert [path.name for path in committed(shared / "checkpoints")] == ["step-00000010"]
    assert not (shared / "summary.json").exists()


def test_a_new_run_does_not_mix_with_an_old_one(shared: Path) -> None:
    train(shared, checkpoint_every=10)
    with pytest.raises(AgreedError, match="holds checkpoints of a run that went further"):
        train(shared)
    with pytest.raises(AgreedError, match="seed 5 -> 6"):
        train(shared, resume="auto", seed=6)
    with pytest.raises(AgreedError, match="is 30 steps along, and --epochs 1 ends after 15"):
        train(shared, resume="auto", epochs=1)
    with pytest.raises(AgreedError, match="went further than step 10"):
        train(shared, resume=str(shared / "checkpoints" / "step-00000010"))


WRONG = [{"seed": 6}, {"epochs": 1}, {"data": "other"}, {"model": "softmax"}, {"resume": "never"}]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_wrong_start_changes_nothing(shared: Path, wrong: dict[str, Any]) -> None:
    """A run that is going there goes on, and damaged checkpoints are left alone."""
    train(shared, checkpoint_every=10)
    directory = shared / "checkpoints"
    if COMM.rank == 0:
        (directory / "step-00000999").touch()
    COMM.Barrier()
    before = (directory / OWNER).read_text(), sorted(directory.rglob("*"))
    with pytest.raises(AgreedError):
        train(shared, **{"resume": "auto", **wrong})
    assert ((directory / OWNER).read_text(), sorted(directory.rglob("*"))) == before
    COMM.Barrier()


def test_what_another_run_wrote_before_it_was_replaced_is_used(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(shared / "whole", checkpoint_every=10)
    rehearse = setup.rehearse

    def rehearse_and_wait(*arguments: Any) -> None:
        rehearse(*arguments)
        if COMM.rank == 0:
            shutil.copytree(shared / "whole" / "checkpoints", shared / "late" / "checkpoints")
        COMM.Barrier()

    monkeypatch.setattr(loop, "rehearse", rehearse_and_wait)
    assert train(shared / "late", resume="auto") == []
    assert json.loads((shared / "late" / "summary.json").read_text())["resumed_from"] == len(whole)


def test_a_checkpoint_that_turns_out_to_be_damaged_is_set_aside_for_the_one_before(
    shared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(shared, checkpoint_every=10, checkpoint_writers=COMM.size)
    directory = shared / "checkpoints"
    if COMM.rank == 0:
        flip_a_parameter(directory / "step-00000030")
    COMM.Barrier()
    outcome = loop.train(COMM, {**SHORT, "out": str(shared), "resume": "auto"}, Console())
    assert outcome.completed
    assert rows(shared) == whole
    assert len(list(directory.glob("step-00000030.damaged-*"))) == 1
    if COMM.rank == 0:
        said = capsys.readouterr().out
        assert "does not fit its digest" in said
        assert "resumed from" in said
        assert "after 20 of 30 steps" in said


def test_a_damaged_checkpoint_that_was_asked_for_is_an_error(shared: Path) -> None:
    train(shared, checkpoint_every=10)
    path = shared / "checkpoints" / "step-00000010"
    if COMM.rank == 0:
        flip_a_parameter(path)
    COMM.Barrier()
    with pytest.raises(AgreedError, match=r"step-00000010: .*does not fit its digest"):
        train(shared / "next", resume=str(path))
    assert path.exists()


def flip_a_parameter(path: Path) -> None:
    piece = look(path).manifest.arrays["parameters"].pieces[-1]
    with h5py.File(path / piece.file, locking=False) as file:
        offset = file["parameters"].id.get_offset()
    with open(path / piece.file, "r+b") as raw:
        raw.seek(offset + 7)
        byte = raw.read(1)
        raw.seek(offset + 7)
        raw.write(bytes([byte[0] ^ 1]))


def test_checkpoints_as_often_as_the_budget_allows(shared: Path) -> None:
    train(shared, epochs=12, checkpoint_budget=1e-9, keep=99)
    steps = [look(path).step for path in committed(shared / "checkpoints")]
    assert steps == [10, 180]  # one to measure, no other within such a budget but the last


@pytest.fixture
def memory(shared: Path) -> Path:
    """A folder that stands for the memory of the nodes."""
    path = shared / "memory"
    if COMM.rank == 0:
        path.mkdir()
    COMM.Barrier()
    return path


def test_a_newer_state_in_the_memory_of_the_nodes_is_taken(whole: list[Row], shared: Path, memory: Path) -> None:
    out = shared / "out"
    settings = {"checkpoint_every": 10, "partner_every": 3, "partner_dir": str(memory), "checkpoint_mode": "wait"}
    die_after(17, out, **settings)
    assert [look(path).step for path in committed(out / "checkpoints")] == [10]
    COMM.Barrier()

    assert train(out, resume="auto", **settings) == whole
    assert json.loads((out / "summary.json").read_text())["resumed_from"] == 15
    COMM.Barrier()
    assert not list(memory.rglob("manifest.json"))  # all is forgotten when the run is complete


def test_copies_that_fail_are_said_and_the_run_goes_on(
    whole: list[Row],
    shared: Path,
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fill, out, steps = PartnerCopies._fill, shared / "out", []

    def fail(self: PartnerCopies, order: Any, *arguments: Any) -> None:
        """On one rank, from the second copy on."""
        steps.append(order.step)
        if COMM.rank == COMM.size - 1 and len(steps) > 1:
            raise OSError(28, "no room left", "memory")
        fill(self, order, *arguments)

    monkeypatch.setattr(PartnerCopies, "_fill", fail)
    settings = {"checkpoint_every": 10, "partner_every": 3, "partner_dir": str(memory), "checkpoint_mode": "wait"}
    die_after(8, out, **settings)
    resumed = train(out, console=Console(), resume="auto", **settings)
    assert resumed == whole
    assert steps == [3, 6, 3, *range(6, 31, 3)]  # what came from memory is copied again
    if COMM.rank == 0:
        summary = json.loads((out / "summary.json").read_text())
        assert summary["resumed_from"] == 3
        assert len(summary["notes"]) == len(range(6, 31, 3))
        assert "no room left" in summary["notes"][0]
        said = capsys.readouterr().out
        assert f"note: partner copies of step 6 failed: rank {COMM.size - 1}: OSError" in said
        assert "note: partner copies of step 27 failed" in said


def test_an_older_state_in_memory_is_not_taken(whole: list[Row], shared: Path, memory: Path) -> None:
    settings = {"checkpoint_every": 10, "partner_every": 7, "partner_dir": str(memory), "checkpoint_mode": "wait"}
    die_after(12, shared / "out", **settings)
    assert train(shared / "out", resume="auto", **settings) == whole
    assert json.loads((shared / "out" / "summary.json").read_text())["resumed_from"] == 10


def test_what_is_begun_anew_does_not_find_the_copies_of_what_was_given_up(shared: Path, memory: Path) -> None:
    settings = {"partner_every": 3, "partner_dir": str(memory)}
    die_after(17, shared / "out", **settings)
    assert len(list(memory.rglob("manifest.json"))) == 1
    COMM.Barrier()
    die_after(4, shared / "out", seed=6, **settings)
    assert len(list(memory.rglob("manifest.json"))) == 1
    COMM.Barrier()
    assert train(shared / "out", resume="auto", seed=6, **settings) == train(shared / "whole", seed=6)


@pytest.mark.paired
@pytest.mark.parametrize("layout", ["shards", "single"])
@pytest.mark.parametrize("mode", ["background", "wait"])
def test_how_checkpoints_are_written_changes_no_bit(shared: Path, layout: str, mode: str) -> None:
    settings = {"checkpoint_layout": layout, "checkpoint_mode": mode, "checkpoint_writers": COMM.size}
    whole = train(shared, checkpoint_every=10, **settings)
    train(shared / "other", checkpoint_every=10)
    state = read(look(shared / "checkpoints" / "step-00000020"))
    other = read(look(shared / "other" / "checkpoints" / "step-00000020"))
    assert {name: values.tobytes() for name, values in state.items()} == {
        name: values.tobytes() for name, values in other.items()
    }
    assert train(shared / "next", resume=str(shared / "checkpoints" / "step-00000020")) == whole[20:]


def test_the_directory_above_a_checkpoint_is_not_called_damaged(shared: Path) -> None:
    train(shared, checkpoint_every=10)
    with pytest.raises(AgreedError, match=r"is a directory of checkpoints: give one of them, such as .*step-00000030"):
        train(shared / "next", resume=str(shared / "checkpoints"))


def test_a_log_that_cannot_be_written_is_everybodys_error(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append = Log.append

    def fail(log: Log, row: Row) -> None:
        if row.step == 7:
            log._trouble = OSError(28, "No space left on device", "log.csv")
        append(log, row)

    monkeypatch.setattr(Log, "append", fail)
    with pytest.raises(AgreedError, match=r"rank 0: OSError: .*No space left on device: 'log.csv'"):
        train(shared)
    COMM.Barrier()
    assert len(rows(shared)) == 6
    assert not (shared / "summary.json").exists()


def test_divergence_is_everybodys_error(data: Dataset) -> None:
    trainer = make_trainer(data)
    trainer.parameters[0] = np.nan
    with pytest.raises(AgreedError, match="the loss became nan in step 1"):
        trainer.step()
    trainer.close()


def test_results_can_be_made_again_from_their_own_settings(shared: Path) -> None:
    first = train(shared / "first")
    text = (shared / "first" / "config.toml").read_text()
    settings = Config(**{**tomllib.loads(text), "out": str(shared / "second")})
    assert settings.seed == 5
    again = train(shared / "second", figure=True, **settings.lasting())
    assert again == first
    assert (shared / "second" / "training.png").stat().st_size > 10_000


# --- the data set is looked at, and all see the same ---


def data_set(path: Path, samples: int = 400, **values: float) -> Path:
    """400 samples of 8 numbers in 4 classes, the first 80 to judge by; `y120=-1` changes a label of train."""
    x = np.random.default_rng(0).normal(size=(samples, 8)).astype(np.float32)
    y = np.arange(samples) % 4
    for name, value in values.items():
        (y[80:] if name[0] == "y" else x[80:, 0])[int(name[1:])] = value
    with h5py.File(path, "w") as file:
        for split, part in (("train", slice(80, None)), ("test", slice(80))):
            file[f"{split}/x"], file[f"{split}/y"] = x[part], y[part]
    return path


def for_all(make: Callable[[], Path]) -> str:
    """A file that rank 0 makes."""
    return str(on_root(COMM, make))


def test_any_file_with_the_four_arrays_trains_and_its_digest_is_kept(shared: Path) -> None:
    path = for_all(lambda: data_set(shared / "data.h5"))
    train(shared / "run", data=path, epochs=1, checkpoint_every=2)
    with Dataset(Path(path)) as alone:
        alone.look_at_all()
        kept = look(committed(shared / "run" / "checkpoints")[-1]).facts["data"]
    assert kept == {"path": path, "digest": alone.digest}


@pytest.mark.every_size
def test_data_that_cannot_be_learnt_from_are_refused_by_all_with_place_and_value(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "BLOCK", 1 << 10)  # so that one rank alone sees it
    for number, (wrong, said) in enumerate(
        (({"y120": -1}, r"train/y\[120\] is -1"), ({"x319": np.nan}, r"train/x\[319, 0\] is nan"))
    ):
        path = for_all(lambda wrong=wrong, number=number: data_set(shared / f"{number}.h5", **wrong))
        with pytest.raises(AgreedError, match=said):
            train(shared / "run", data=path)
    assert not (shared / "run").exists()


def test_data_that_change_while_a_run_stops_are_refused_when_it_goes_on(shared: Path) -> None:
    path = for_all(lambda: data_set(shared / "data.h5"))
    train(shared / "run", data=path, epochs=1, checkpoint_every=2)
    for_all(lambda: data_set(shared / "data.h5", y100=3))
    with pytest.raises(AgreedError, match="was trained on other data"):
        train(shared / "run", data=path, epochs=2, resume="auto")


needs_several = pytest.mark.skipif(COMM.size == 1, reason="takes two ranks that differ")


@needs_several
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"samples": 399}, r"the data set must be the same on all ranks, but .*\(319,\)"),
        (
            {"y100": 3},
            r"the digest of the data set must be the same on all ranks, but .*: '[0-9a-f]{16}'; rank {last}: ",
        ),
    ],
    ids=["size", "contents"],
)
def test_copies_that_differ_are_refused_by_all(shared: Path, wrong: dict[str, Any], said: str) -> None:
    last = COMM.size - 1
    path = data_set(shared / f"{COMM.rank}.h5", **(wrong if COMM.rank == last else {}))
    with monkeypatched_copy(path) as settings, pytest.raises(AgreedError, match=said.replace("{last}", str(last))):
        train(shared / "run", **settings)
    assert not (shared / "run").exists()


@needs_several
def test_copies_that_are_alike_are_looked_at_by_whoever_has_them(shared: Path) -> None:
    path = data_set(shared / f"{COMM.rank % 2}-of-{COMM.rank}.h5")
    with monkeypatched_copy(path) as settings:
        train(shared / "run", epochs=1, **settings)


@contextmanager
def monkeypatched_copy(path: Path) -> Iterator[dict[str, str]]:
    """Settings with the same name of the data set on all ranks, where each rank finds its own copy."""
    open_here = setup.Dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "Dataset", lambda name: open_here(path))
        yield {"data": "copy.h5"}


@needs_several
@pytest.mark.parametrize(
    ("settings", "said"),
    [({"epochs": 3}, "--epochs must be the same on all ranks, but"), ({"keep": 9}, "--keep must be .*'not given'")],
    ids=["other", "more"],
)
def test_settings_that_differ_are_refused_by_all_with_ranks_and_values(
    shared: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(AgreedError, match=said) as raised:
        train(shared / "run", **(settings if COMM.rank == COMM.size - 1 else {}))
    assert f"rank {COMM.size - 1}: {next(iter(settings.values()))}" in str(raised.value)
    assert not (shared / "run").exists()


def test_a_run_whose_test_loss_is_no_number_fails_and_leaves_no_checkpoint(shared: Path) -> None:
    path = for_all(lambda: data_set(shared / "data.h5"))
    wild = {"warmup": 0, "policy": "constant", "learning_rate": 1e30, "batch": 400, "epochs": 1}
    with pytest.raises(AgreedError, match=r"the test loss became (nan|inf) after step 1: training diverged"):
        train(shared / "run", data=path, checkpoint_every=1, **wild)
    assert not committed(shared / "run" / "checkpoints")
    assert not (shared / "run" / "summary.json").exists()


def test_a_run_that_has_learnt_nothing_says_so(shared: Path) -> None:
    path = for_all(lambda: data_set(shared / "data.h5"))
    said = io.StringIO()
    train(shared / "run", data=path, warmup=0, policy="constant", learning_rate=30.0, console=Console(file=said))
    if COMM.rank == 0:
        (note,) = json.loads((shared / "run" / "summary.json").read_text())["notes"]
        assert "guessing gives 1.39: nothing was learnt; is --learning-rate 30 too large" in note


def test_a_figure_that_cannot_be_drawn_costs_no_result(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("latex was not found")

    monkeypatch.setattr("hpcdist.train.figure.draw", fail)
    train(shared, figure=True, epochs=1)
    summary = json.loads((shared / "summary.json").read_text())
    assert summary["completed"]
    assert summary["notes"][-1].endswith("training.png could not be drawn: RuntimeError: latex was not found")


def test_a_path_with_a_dollar_is_no_formula(shared: Path) -> None:
    path = for_all(lambda: data_set(shared / "a$b_$^{.h5"))
    train(shared / "run", data=path, figure=True, epochs=1)
    assert json.loads((shared / "run" / "summary.json").read_text())["notes"] == []
    assert (shared / "run" / "training.png").exists()
