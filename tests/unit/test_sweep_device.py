"""The report on GPUs: its numbers, its files, its tables, and the command that starts the ranks."""

import json
import os
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from hpcdist.bench.gpu import mps, nccl, table
from hpcdist.bench.gpu.__main__ import Measurement, main
from hpcdist.bench.gpu.options import Settings, settings
from hpcdist.bench.gpu.record import Limit, Record, Report

MIB = 1 << 20
TESTS = Path(__file__).parents[1]
SETTINGS = Settings((4096, MIB), ("ring", "shared"), ("staged", "aware", "peer"), 5, 0.01)

# What every rank runs, with a device that is simulated.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import guarded
from hpcdist.device.kinds import KINDS
from hpcdist.bench.gpu.program import main
KINDS["cuda"] = guarded.install
main()
"""


def record(algorithm="ring", path="peer", nbytes=MIB, us=100.0, ranks=4, **fields):
    made = {
        "ranks": ranks,
        "nbytes": nbytes,
        "algorithm": algorithm,
        "path": path,
        "segment_nbytes": 4 * MIB,
        "rounds": 9,
        "time_us_p50": us,
        "time_us_p10": us / 2,
        "time_us_p90": us * 2,
        "busbw": 1.5,
        "share": 0.25,
        "share_p10": 0.2,
        "share_p90": 0.5,
        "to_staged": None if path == "staged" else 3.0,
        "to_library": 4.0,
        "wrong": 0,
    }
    return Record(**{**made, **fields})


def report(*records, **fields):
    machine = {
        "hosts": ["n1"],
        "cpu": "a processor",
        "cores_per_host": 2,
        "mpi": "Open MPI v5.0.0",
        "versions": {"hpcdist": "1.0"},
        "devices": {"kind": "cuda", "names": {"A GPU": 1}, "ranks_per_device": [4], "versions": {"driver": "550.1"}},
        "mps": "does not run: ranks that share a GPU take turns on it",
    }
    keys = dict.fromkeys((each.ranks, each.nbytes) for each in records)
    limits = [Limit(ranks, nbytes, 1500.0, 1200.0, 25.0) for ranks, nbytes in keys]
    return Report(["python", "-m", "x"], "2026-01-02T12:00:00+00:00", {}, machine, limits, list(records), **fields)


def rows(text, title):
    """The cells of the table below a title: {(algorithm, path): cells}."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {tuple(row[:2]): row[2:] for row in cells}


# --- numbers ---


def test_a_copy_counts_the_bytes_that_it_reads_and_writes_of_all_ranks():
    limit = Limit.of(4, 10**9, np.array([0.5]), np.array([2.0]), np.array([2.0]))
    assert (limit.one_GBps, limit.all_GBps, limit.floor_us) == (4.0, 4.0, 2e6)


def test_nccl_wants_a_gpu_for_each_rank():
    module = object()
    assert nccl._hindrance(4, [1, 1, 1, 1], module) == ""
    assert nccl._hindrance(4, [4], module) == "it takes one GPU per rank, and 4 ranks are on 1"
    assert "lone rank" in nccl._hindrance(1, [1], module)
    assert "finds no NCCL" in nccl._hindrance(2, [1, 1], None)


# --- CUDA's Multi-Process Service ---


@pytest.fixture
def daemon(tmp_path):
    """A process of the daemon's name."""
    (tmp_path / mps.DAEMON).symlink_to(shutil.which("sleep"))
    process = subprocess.Popen([tmp_path / mps.DAEMON, "60"])
    while not Path(f"/proc/{process.pid}/cmdline").read_bytes().startswith(os.fsencode(tmp_path)):
        time.sleep(0.01)  # until it has become another program
    yield process
    process.kill()
    process.wait()


def test_without_daemon_and_pipe_it_does_not_run(tmp_path):
    assert mps.state({mps.VARIABLE: str(tmp_path)}) == "does not run: ranks that share a GPU take turns on it"


def test_a_pipe_without_a_daemon_is_no_proof(tmp_path):
    os.mkfifo(tmp_path / "control")
    assert mps.state({mps.VARIABLE: str(tmp_path)}).startswith(f"unknown: there is {tmp_path}/control")


def test_a_daemon_runs_if_its_pipe_is_where_ranks_look_for_it(tmp_path, daemon):
    assert mps.state({mps.VARIABLE: str(tmp_path)}).startswith("does not serve these ranks")
    os.mkfifo(tmp_path / "control")
    assert mps.state({mps.VARIABLE: str(tmp_path)}).startswith(f"runs: {mps.DAEMON} is process {daemon.pid}")


# --- files ---


def test_a_report_is_read_as_it_was_written(tmp_path):
    written = report(record(), record(path="staged"), record(share=None, share_p10=None, share_p90=None))
    written.write_json(tmp_path / "a.json")
    assert Report.read(tmp_path / "a.json") == written


@pytest.mark.parametrize("text", ["", "{}", '{"version": 2}', '{"version": 1, "limits": [], "results": [{}]}'])
def test_what_is_no_report_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: "):
        Report.read(tmp_path / "a.json")


def test_flags_say_the_same_settings_again():
    found = []
    command = settings(lambda **options: found.append(Settings(**options)))
    result = CliRunner().invoke(click.command()(command), SETTINGS.flags())
    assert result.exit_code == 0, result.output
    assert found == [SETTINGS]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--paths", "auto"], "there is no path 'auto'; choose from staged, aware, peer"),
        (["--algorithms", "rign"], "choose from"),
        (["--sizes", "6"], "no whole number of float32"),
        (["--ranks", "0"], "'0' is no number of ranks"),
        (["--rounds", "4"], "4 is not in the range x>=5"),
    ],
)
def test_bad_arguments_exit_with_2_and_say_what_is_allowed(flags, message):
    result = CliRunner().invoke(main, flags)
    assert result.exit_code == 2
    assert message in result.output


# --- tables ---


def test_the_machine_its_driver_and_the_multi_process_service_are_told():
    text = table.text(report(record()))
    assert "n1: 1 x A GPU (driver 550.1); 2 cores of a processor; Open MPI v5.0.0; hpcdist 1.0." in text
    assert "CUDA's Multi-Process Service does not run" in text
    assert "    python -m x\n" in text


def test_every_row_has_its_share_of_the_floor():
    text = table.text(report(record(), record("tree", share=0.5), record(nbytes=4 * MIB)))
    assert "| floor [us] | 25 | 25 |" in text
    found = rows(text, "4 ranks: share of the floor")
    assert found == {("ring", "peer"): ["25% (20%-50%)"] * 2, ("tree", "peer"): ["50% (20%-50%)", "-"]}


def test_peer_stands_beside_staged_by_algorithm_and_at_its_best():
    text = table.text(
        report(
            record("ring", "staged", us=300.0),
            record("tree", "staged", us=200.0),
            record("ring", "peer", us=100.0, to_staged=3.0),
            record("shared", "peer", us=50.0, to_staged=None),
            record("MPI_Allreduce", "staged", us=10.0, to_library=None),
            record("MPI_Allreduce", "aware", us=5.0),
        )
    )
    found = rows(text, "4 ranks: how many times as fast as the same algorithm staged")
    assert found == {("ring", "peer"): ["3.00"], ("fastest", "peer"): ["4.00"]}
    beside = rows(text, "4 ranks: how many times as fast as the staged MPI_Allreduce")
    assert ("MPI_Allreduce", "staged") not in beside
    assert beside["MPI_Allreduce", "aware"] == ["4.00"]


def test_without_the_path_peer_there_is_no_fastest_one():
    found = rows(
        table.text(report(record(path="staged"))), "4 ranks: how many times as fast as the same algorithm staged"
    )
    assert found == {("fastest", "peer"): ["-"]}


def test_a_lone_rank_has_its_times_and_no_shares():
    text = table.text(report(record(ranks=1, share=None, share_p10=None, share_p90=None)))
    assert "## 1 rank: time [us]" in text
    assert "1 rank: share" not in text


def test_what_is_wrong_or_missing_is_said():
    text = table.text(report(record(), replace(record(), wrong=7), missing={"path aware left out": [1, 2, 4]}))
    assert "- 4 ranks, ring peer, 1 MiB: 7 elements" in text
    assert "- 1, 2 and 4 ranks: path aware left out" in text
    assert "was right" not in text
    assert "Every element of every result was right." in table.text(report(record()))


# --- the command ---


@pytest.mark.skipif(find_spec("cupy") is not None, reason="there is a CuPy here, and maybe a GPU")
def test_without_a_gpu_nothing_is_measured_and_the_reason_said(tmp_path):
    result = CliRunner().invoke(main, ["--out", str(tmp_path / "a")])
    assert result.exit_code == 1
    assert "nothing was measured: " in result.output
    assert "CuPy" in result.output
    assert not list(tmp_path.iterdir())


@pytest.fixture
def program(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, str(tmp_path / "program.py")]


@pytest.mark.limit(300)
def test_all_numbers_of_ranks_are_measured_by_real_ranks_and_are_one_report(tmp_path, program, monkeypatch):
    monkeypatch.setenv("HPCDIST_CUDA_AWARE", "0")
    measurement = Measurement(Report(["python", "-m", "x"], "now", {}), SETTINGS, tmp_path / "new" / "v1.2", program)
    measurement.run([1, 2])
    assert not measurement.failed
    found = Report.read(tmp_path / "new" / "v1.2.json")
    assert found == measurement.report
    assert {(limit.ranks, limit.nbytes) for limit in found.limits} == {(1, 4096), (1, MIB), (2, 4096), (2, MIB)}
    assert not found.wrong
    assert [1, 2] in found.missing.values(), "the path aware is possible on neither"
    assert found.machine["ranks_per_device"] == {"1": [1], "2": [2]}
    assert "## 2 ranks: share of the floor" in (tmp_path / "new" / "v1.2.md").read_text()


def test_a_run_that_fails_is_missing_and_does_not_end_the_report(tmp_path):
    measurement = Measurement(
        Report([], "now", {}), SETTINGS, tmp_path / "a", [sys.executable, "-c", "raise SystemExit(3)"]
    )
    measurement.run([1])
    assert measurement.failed
    missing = {"the run exited with 3; not measured: 4 KiB, 1 MiB": [1]}
    assert json.loads((tmp_path / "a.json").read_text())["missing"] == missing
