"""kill -9 at random moments of a training run, which is then resumed at once.

A few trials belong to every test run; HPCDIST_KILL_TRIALS=500 makes it a night's work.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from matrix import WHOLE

from hpcdist.bench.crash import chain, job
from hpcdist.bench.crash.record import Part
from hpcdist.checkpoint import committed, look
from hpcdist.kernels.jit import SWITCH

pytestmark = pytest.mark.long

pytest.importorskip("sklearn", reason="trains on the digits")

TRIALS = int(os.environ.get("HPCDIST_KILL_TRIALS", "4" if WHOLE else "2"))
RANKS, EVERY, STEPS = 4 if WHOLE else 2, 3, 120
COMMAND = [sys.executable, "-m", "hpcdist"]
LAUNCH = [*COMMAND, "run", "-n", str(RANKS), "--", *COMMAND]
TRAIN = ["train", "--epochs", "10", "--batch", "128", "--seed", "5", "--model", "softmax"]
PATIENCE = 120.0  # seconds, for a machine that is busy with other things


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    own = {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own, SWITCH: "0"}  # without compiled code, which takes longer to load than these runs last


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> list[dict[str, str]]:
    """The log of a run that nobody killed."""
    out = tmp_path_factory.mktemp("uninterrupted")
    finish(out, environment, "never")
    rows = log(out)
    assert len(rows) == STEPS
    return rows


def start(out: Path, environment: dict[str, str], resume: str) -> subprocess.Popen[str]:
    options = ["--out", str(out), "--checkpoint-every", str(EVERY), "--resume", resume]
    with open(out / "output.txt", "a") as output:
        return subprocess.Popen(
            [*LAUNCH, *TRAIN, *options],
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
            text=True,
        )


def finish(out: Path, environment: dict[str, str], resume: str) -> None:
    assert start(out, environment, resume).wait(PATIENCE) == 0, (out / "output.txt").read_text()


def log(out: Path) -> list[dict[str, str]]:
    """Whole rows of the log, without the column that differs from run to run."""
    path = out / "log.csv"
    text = path.read_text() if path.exists() else ""
    rows = list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))
    for row in rows:
        del row["seconds"]
    return rows


def wait_for_step(process: subprocess.Popen[str], out: Path, step: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while len(log(out)) < step:
        assert process.poll() is None, (out / "output.txt").read_text()
        assert time.monotonic() < deadline, f"step {step} was not reached in {PATIENCE} s"
        time.sleep(0.001)


def test_a_rank_told_to_stop_makes_all_save_and_exit_with_85(
    tmp_path: Path, environment: dict[str, str], uninterrupted: list[dict[str, str]]
) -> None:
    process = start(tmp_path, environment, "never")
    wait_for_step(process, tmp_path, 50)
    ranks = [child for child in psutil.Process(process.pid).children(recursive=True) if "python" in child.name()]
    ranks[-1].send_signal(signal.SIGUSR1)
    assert process.wait(PATIENCE) == 85
    assert not (tmp_path / "summary.json").exists()
    assert look(committed(tmp_path / "checkpoints")[-1]).step == len(log(tmp_path)) < STEPS

    finish(tmp_path, environment, "auto")
    assert log(tmp_path) == uninterrupted


def test_ctrl_c_saves_and_the_run_goes_on_later(
    tmp_path: Path, environment: dict[str, str], uninterrupted: list[dict[str, str]]
) -> None:
    process = start(tmp_path, environment, "never")
    wait_for_step(process, tmp_path, 50)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the launcher and its ranks
    assert process.wait(PATIENCE) != 0
    assert look(committed(tmp_path / "checkpoints")[-1]).step == len(log(tmp_path)) < STEPS

    finish(tmp_path, environment, "auto")
    assert log(tmp_path) == uninterrupted


def test_a_signal_at_any_time_since_the_start_is_heard_and_breaks_nothing(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    options = ["--out", str(tmp_path), "--checkpoint-every", str(EVERY)]
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # born deaf, as job scripts see to, until it has a handler
    process = subprocess.Popen([*COMMAND, *TRAIN, *options], env=environment)
    signal.signal(signal.SIGUSR1, before)
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
    assert process.wait(1) == 85
    assert [look(path).step for path in committed(tmp_path / "checkpoints")] == [1]


@pytest.mark.limit(0)  # each wait has a limit of its own
def test_a_killed_run_resumes_from_its_newest_checkpoint_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "0")
    memory = tmp_path / "memory"
    memory.mkdir()
    part = Part(config={"trials": TRIALS, "seed": 0})
    chain.run(part, job.Job(RANKS, RANKS, tmp_path, memory))
    assert part.problems() == []
    assert len(part.rows) == TRIALS
    assert part.complete
