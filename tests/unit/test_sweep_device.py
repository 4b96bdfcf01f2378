"""The report on GPUs: its numbers, its files, its tables, and the command that starts the ranks."""

import json
import os
import shutil
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from hpcdist.bench.draft import Draft
from hpcdist.bench.gpu import mps, nccl
from hpcdist.bench.gpu.report import KIND, Limit, Part, Record, Report
from hpcdist.bench.gpu.report import text as with_figures
from hpcdist.bench.jobs import everywhere
from hpcdist.bench.saved import read
from hpcdist.cli.main import main
from hpcdist.util.sampling import Spread

MIB = 1 << 20
TESTS = Path(__file__).parents[1]
ASKED = {
    "sizes": (4096, MIB),
    "algorithms": ("ring", "shared"),
    "paths": ("staged", "aware", "peer"),
    "rounds": 5,
    "seconds": 0.01,
}

# What every rank runs, with a device that is simulated.
PROGRAM = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
import guarded
from hpcdist.device.kinds import KINDS
from hpcdist.bench.gpu.ranks import main
KINDS["cuda"] = guarded.install
main()
"""


def text(made):
    return with_figures(made, {})


SHARE = Spread(0.25, 0.2, 0.5, 9)


def record(algorithm="ring", path="peer", nbytes=MIB, us=100.0, ranks=4, **fields):
    made = {
        "ranks": ranks,
        "nbytes": nbytes,
        "algorithm": algorithm,
        "path": path,
        "segment_nbytes": 4 * MIB,
        "us": Spread(us, us / 2, us * 2, 9),
        "busbw": 1.5,
        "share": SHARE,
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
    limits = [
        Limit(records[0].ranks, nbytes, 1500.0, 1200.0, 25.0) for nbytes in dict.fromkeys(r.nbytes for r in records)
    ]
    part = Part(["hpcdist", "x"], "2026-01-02T12:00:00+00:00", machine=machine, rows=[*limits, *records], **fields)
    return Report({"1 rank" if records[0].ranks == 1 else f"{records[0].ranks} ranks": part})


def rows(text, title):
    """The cells of the table below a title: {(algorithm, path): cells}."""
    lines = text.split(f"## {title}\n\n")[1].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {tuple(row[:2]): row[2:] for row in cells}


# --- numbers ---


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
    written = report(record(), record(path="staged"), record(share=None))
    written.write(tmp_path / "a.json")
    assert read(tmp_path / "a.json", Part) == written


@pytest.mark.parametrize(
    "text", ["", "{}", '{"version": 1, "parts": {}}', '{"version": 2, "parts": {"a": {"rows": [{}]}}}']
)
def test_what_is_no_report_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: "):
        read(tmp_path / "a.json", Part)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--paths", "auto"], "there is no path 'auto'; choose from staged, aware, peer"),
        (["--algorithms", "rign"], "choose from"),
        (["--sizes", "6"], "no whole number of float32"),
        (["--ranks", "0"], "'0' is no number of ranks from 1"),
        (["--rounds", "4"], "4 is not in the range 5<=x<=1000"),
    ],
)
def test_bad_arguments_exit_with_2_and_say_what_is_allowed(flags, message):
    result = CliRunner().invoke(main, ["bench", "gpu", *flags])
    assert result.exit_code == 2
    assert message in result.output


# --- tables ---


def test_the_machine_its_driver_and_the_multi_process_service_are_told():
    told = text(report(record()))
    assert "1 x A GPU, driver 550.1, 2 cores of a processor, CUDA's Multi-Process Service does not run" in told
    assert "take turns on it, Open MPI v5.0.0, hpcdist 1.0." in told
    assert "    hpcdist x\n" in told


def test_every_row_has_its_share_of_the_floor():
    tree = record("tree", share=Spread(0.5, 0.2, 0.5, 9))
    told = text(report(record(), tree, record(nbytes=4 * MIB)))
    assert "| floor [us] | 25 | 25 |" in told
    found = rows(told, "4 ranks: share of the floor")
    assert found == {("ring", "peer"): ["25 % (20 to 50)"] * 2, ("tree", "peer"): ["50 % (20 to 50)", "-"]}


def test_peer_stands_beside_staged_by_algorithm_and_at_its_best():
    told = text(
        report(
            record("ring", "staged", us=300.0),
            record("tree", "staged", us=200.0),
            record("ring", "peer", us=100.0, to_staged=3.0),
            record("shared", "peer", us=50.0, to_staged=None),
            record("MPI_Allreduce", "staged", us=10.0, to_library=None),
            record("MPI_Allreduce", "aware", us=5.0),
        )
    )
    found = rows(told, "4 ranks: how many times as fast as the same algorithm staged")
    assert found == {("ring", "peer"): ["3.00"], ("fastest", "peer"): ["4.00"]}
    beside = rows(told, "4 ranks: how many times as fast as the staged MPI_Allreduce")
    assert ("MPI_Allreduce", "staged") not in beside
    assert beside["MPI_Allreduce", "aware"] == ["4.00"]


def test_without_the_path_peer_there_is_no_fastest_one():
    found = rows(text(report(record(path="staged"))), "4 ranks: how many times as fast as the same algorithm staged")
    assert found == {("fastest", "peer"): ["-"]}


def test_a_lone_rank_has_its_times_and_no_shares():
    told = text(report(record(ranks=1, share=None)))
    assert "## 1 rank: time [us]" in told
    assert "1 rank: share" not in told


def test_what_is_wrong_or_missing_is_said():
    told = text(report(record(), replace(record(), wrong=7), missing=["path aware left out"]))
    assert "- 4 ranks: ring peer, 1 MiB: 7 elements" in told
    assert "- 4 ranks: path aware left out" in told
    assert "was right" not in told
    assert "Every element of every result was right." in text(report(record()))


# --- the command ---


@pytest.mark.skipif(find_spec("cupy") is not None, reason="there is a CuPy here, and maybe a GPU")
def test_without_a_gpu_nothing_is_measured_and_the_reason_said(tmp_path):
    result = CliRunner().invoke(main, ["bench", "gpu", "--out", str(tmp_path / "a")])
    assert result.exit_code == 1
    assert "nothing was measured: " in result.output
    assert "CuPy" in result.output
    assert not list(tmp_path.iterdir())


def draft(tmp_path, program, monkeypatch):
    """A report whose ranks run `simulated`, this program."""
    (tmp_path / "simulated.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return Draft(KIND, tmp_path / "out")


@pytest.mark.limit(300)
def test_all_numbers_of_ranks_are_measured_by_real_ranks_and_are_one_report(tmp_path, monkeypatch):
    monkeypatch.setenv("HPCDIST_CUDA_AWARE", "0")
    made = draft(tmp_path, PROGRAM, monkeypatch)
    everywhere(made, "simulated", ASKED, [1, 2])
    assert not made.failed
    found = read(tmp_path / "out" / "gpu.json", Part)
    assert found == made.report
    assert list(found.parts) == ["1 rank", "2 ranks"]
    for ranks, part in zip((1, 2), found.parts.values(), strict=True):
        assert [(row.ranks, row.nbytes) for row in part.rows if isinstance(row, Limit)] == [(ranks, 4096), (ranks, MIB)]
        assert any("path aware left out" in what for what in part.missing)
        assert part.machine["devices"]["ranks_per_device"] == [ranks]
    assert not found.wrong
    assert "## 2 ranks: share of the floor" in (tmp_path / "out" / "gpu.md").read_text()


def test_a_run_that_fails_is_missing_and_does_not_end_the_report(tmp_path, monkeypatch):
    made = draft(tmp_path, "raise SystemExit(3)", monkeypatch)
    everywhere(made, "simulated", ASKED, [1])
    assert made.failed
    (missing,) = json.loads((tmp_path / "out" / "gpu.json").read_text())["parts"]["1 rank"]["missing"]
    assert missing.startswith("the job exited with 3")
