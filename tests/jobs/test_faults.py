"""What users run into: each command says in one line what is wrong, on all ranks alike, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

HPCDIST = [sys.executable, "-m", "hpcdist"]
RUN = [*HPCDIST, "run", "-n", "2", "--"]
RANK = "$((${OMPI_COMM_WORLD_RANK:-$PMI_RANK}))"  # Open MPI's, or hydra's


@pytest.fixture
def data(tmp_path):
    """400 samples of 8 numbers in 4 classes, the first 80 to judge by; a call changes them and gives the path."""

    def make(**changes):
        x = np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32)
        made = {"train/x": x[80:], "train/y": np.arange(320) % 4, "test/x": x[:80], "test/y": np.arange(80) % 4}
        with h5py.File(tmp_path / "data.h5", "w") as file:
            for name, values in {**made, **{name.replace("_", "/"): v for name, v in changes.items()}}.items():
                file[name] = values
        return tmp_path / "data.h5"

    return make


def called(*command, folder, **how):
    return subprocess.run(
        [*map(str, command)], capture_output=True, text=True, cwd=folder, timeout=120, check=False, **how
    )


def one_line(done, said):
    """The command has failed with this in its only line of error."""
    assert done.returncode == 1, done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, done.stderr
    assert said in errors[0]
    assert "Traceback" not in done.stderr


def test_a_label_that_is_none_is_named_before_anything_is_written(tmp_path, data):
    labels = np.arange(320) % 4
    labels[120] = -1
    done = called(*RUN, *HPCDIST, "train", "--data", data(train_y=labels), folder=tmp_path)
    one_line(done, "data.h5: train/y[120] is -1; labels go from 0")
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


def test_a_file_with_the_four_arrays_trains_as_it_is(tmp_path, data):
    done = called(*RUN, *HPCDIST, "train", "--data", data(), "--epochs", "1", "--warmup", "2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "complete after 10 steps" in done.stdout
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["completed"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (f"train --epochs {RANK}", "--epochs must be the same on all ranks, but rank 0: 0; rank 1: 1"),
        (
            f"sweep --max-bytes $((64 * (1 + {RANK})))",
            "--max-bytes must be the same on all ranks, but rank 0: 64; rank 1: 128",
        ),
    ],
    ids=["train", "sweep"],
)
def test_ranks_that_were_given_other_options_end_together(tmp_path, command, said):
    one_line(called(*RUN, "sh", "-c", f"exec {sys.executable} -m hpcdist {command}", folder=tmp_path), said)
    assert not [*tmp_path.iterdir()]


def test_a_loop_over_lines_has_all_its_turns(tmp_path):
    (tmp_path / "lines").write_text("one\ntwo\nthree\n")
    run = f"{sys.executable} -m hpcdist run"
    for options, turns in (("", 3), ("--stdin", 1)):
        rank = "read next; echo $next > rest; exec cat > /dev/null" if not options else "read next; echo $next > rest"
        loop = f"while read line; do {run} {options} -n 1 -- sh -c '{rank}'; echo turn; done < lines"
        done = called("sh", "-c", loop, folder=tmp_path)
        assert done.stdout.split() == ["turn"] * turns, done.stderr
        assert (tmp_path / "rest").read_text() == ("two\n" if options else "\n")


@pytest.mark.parametrize("verb", [["doctor"], ["train"], ["sweep"]], ids=lambda verb: verb[0])
def test_without_any_mpi_it_says_what_to_install(tmp_path, verb):
    nowhere = {**os.environ, "MPI4PY_LIBMPI": str(Path(tmp_path, "libmpi.so"))}
    one_line(called(*HPCDIST, *verb, folder=tmp_path, env=nowhere), "mpi4py finds no MPI library here")
