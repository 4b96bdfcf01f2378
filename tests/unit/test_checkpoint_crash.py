"""The crash report: which stage a kill has interrupted, what counts as a problem, what the tables say."""

import random
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from mpi4py import MPI

from hpcdist.bench.crash import victims
from hpcdist.bench.crash.job import Reference, resumed_from
from hpcdist.bench.crash.record import Part, Trial, text
from hpcdist.bench.crash.stage import COMMIT, IDLE, PARTS, PRUNE, leftovers, stage
from hpcdist.bench.crash.trial import DRAFT, Choice, examine
from hpcdist.bench.saved import Report, read
from hpcdist.checkpoint import Store
from hpcdist.checkpoint.layout import digest

DRAFT_40 = "step-00000040.tmp-0123456789ab"
SHARDS = {"shard-0000-of-0002.h5", "shard-0001-of-0002.h5"}


@pytest.mark.parametrize(
    ("drafts", "newest", "expected"),
    [
        ({}, 0, IDLE),
        ({}, 40, IDLE),
        ({DRAFT_40: set()}, 32, PARTS),
        ({DRAFT_40: {"shard-0000-of-0002.h5"}}, 32, PARTS),
        ({DRAFT_40: SHARDS | {"part-0001.json"}}, 32, PARTS),
        ({DRAFT_40: {"state.h5"}}, 32, PARTS),  # a single writer's part
        ({DRAFT_40: SHARDS | {"state.h5"}}, 32, COMMIT),
        ({DRAFT_40: SHARDS | {"state.h5", ".manifest.0123.json"}}, 32, COMMIT),
        ({DRAFT_40: {"state.h5", "manifest.json"}}, 32, COMMIT),
        ({DRAFT_40: {"state.h5", "manifest.json"}}, 64, PRUNE),
        ({DRAFT_40: set(), "step-00000064.tmp-0123456789ab": set()}, 56, PARTS),
        ({"step-what.tmp-0123456789ab": set()}, 0, IDLE),
    ],
)
def test_the_stage_is_told_by_what_was_left(drafts, newest, expected):
    assert stage(drafts, newest) == expected


def test_leftovers_are_drafts_and_not_committed_checkpoints(tmp_path):
    for name in (DRAFT_40, "step-00000032", "step-00000024.damaged-0123456789ab"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.h5").touch()
    assert leftovers(tmp_path) == {DRAFT_40: frozenset({"state.h5"})}


# --- problems ---


def trial(**fields):
    made = {"number": 3, "victim": victims.RANK, "trigger": DRAFT, "stage": PARTS, "logged": 45, "committed": [32, 40]}
    return Trial(**{**made, **fields})


def test_a_trial_that_resumed_from_the_newest_has_no_problem():
    assert trial(resumed=40).problems() == []
    assert trial(resumed=40).lost == 5
    assert trial(committed=[], resumed=0).problems() == []


@pytest.mark.parametrize("resumed", [32, 0, 48])
def test_resuming_from_another_than_the_newest_is_a_problem(resumed):
    assert trial(resumed=resumed).problems() == [f"trial 3, one rank: resumed from {resumed}, the newest was 40"]


def test_an_orphan_may_have_committed_another_one():
    assert trial(resumed=48, orphans=True).problems() == []
    assert trial(resumed=32, orphans=True).problems()


@pytest.mark.parametrize("fields", [{"unreadable": ["x"]}, {"different": ["x"]}, {"log_differs": True}])
def test_whatever_is_not_as_it_was_is_a_problem(fields):
    assert trial(resumed=40, **fields).problems()


def test_what_a_start_says_tells_where_it_went_on():
    assert resumed_from("note: resumed from run/checkpoints/step-00000040 after 40 of 480 steps\n") == 40
    assert resumed_from("mlp of 9610 parameters on digits: 480 steps\n") is None


# --- what is looked at after a kill ---


@pytest.fixture
def killed(tmp_path):
    """A run of two steps with a checkpoint after each, as a kill may have left it, and what it should be."""
    rows = [{"step": "1", "loss": "0.5"}, {"step": "2", "loss": "0.25"}]
    with open(tmp_path / "log.csv", "w") as file:
        file.write("step,loss,seconds\n1,0.5,0.1\n2,0.25,0.1\n3,0.1")  # its last line is torn
    with Store(MPI.COMM_SELF, tmp_path / "checkpoints", background=False) as store:
        for step in (1, 2):
            store.save(step, {"x": np.full(9, float(step))}, {})
    digests = {step: {"x": digest(np.full(9, float(step)))} for step in (1, 2)}
    return SimpleNamespace(out=tmp_path, ended=lambda: True), Reference([*rows, {"step": "3", "loss": "0.1"}], digests)


CHOICE = Choice(victims.RANK, DRAFT, 1, 0.0)


def test_a_whole_run_has_nothing_wrong(killed):
    found = examine(0, CHOICE, *killed)
    assert (found.logged, found.committed, found.stage, found.problems()) == (2, [1, 2], IDLE, [])


def test_a_byte_of_an_older_checkpoint_that_has_changed_is_found(killed):
    (state,) = (killed[0].out / "checkpoints" / "step-00000001").glob("state.h5")
    raw = state.read_bytes()
    state.write_bytes(raw.replace(np.float64(1).tobytes() * 9, np.float64(1).tobytes() * 8 + np.float64(3).tobytes()))
    assert state.read_bytes() != raw
    found = examine(0, CHOICE, *killed)
    assert len(found.unreadable) == 1
    assert "step-00000001" in found.unreadable[0]


def test_a_checkpoint_of_another_run_is_found(killed):
    killed[1].digests[2]["x"] = digest(np.zeros(9))
    assert examine(0, CHOICE, *killed).different == ["step-00000002"]


def test_a_row_of_the_log_that_is_not_as_it_was_is_found(killed):
    killed[1].log[1]["loss"] = "0.26"
    assert examine(0, CHOICE, *killed).log_differs


# --- the report ---


def report(*trials, **fields):
    config = {"trials": 3, "ranks": 4, "writers": 4, "every": 8}
    part = Part(["hpcdist", "x"], "2025-01-01T00:00:00+00:00", config, rows=list(trials), **fields)
    return Report({"crash": part})


def test_the_table_counts_stages_by_victim(tmp_path):
    one = report(
        trial(resumed=40),
        trial(stage=IDLE, resumed=40, logged=41),
        trial(victim=victims.WRITER, stage=COMMIT),
        complete=2,
    )
    words = text(one, {})
    assert "| one rank | 2 | 1 | 1 | 0 | 0 | 0 | 2 of 2 | 0 | 3 (5) |" in words
    assert "| the writer | 1 | 0 | 0 | 1 | 0 | 0 | 0 of 0 | 0 | - |" in words
    assert "| all | 3 | 1 | 1 | 1 | 0 | 0 | 2 of 2 | 0 | 3 (5) |" in words
    assert "2 runs were complete" in words
    assert "Nothing went wrong." in words
    assert "It ended after" not in words
    one.write(tmp_path / "crash.json")
    assert read(tmp_path / "crash.json", Part) == one


def test_problems_are_said_in_the_report():
    words = text(report(trial(resumed=32, unreadable=["torn"]), wrong=["ranks outlived their launcher"]), {})
    assert "| one rank | 1 | 0 | 1 | 0 | 0 | 1 | 0 of 1 | 0 | 13 (13) |" in words
    assert "## WRONG\n\n- crash: trial 3, one rank: unreadable: torn" in words
    assert "- crash: ranks outlived their launcher" in words
    assert "Nothing went wrong." not in words
    assert "It ended after 1 of 3 trials." in words


# --- choices ---


def test_the_same_numbers_choose_the_same_and_victims_come_in_turn():
    first = [Choice.of(number, random.Random(f"0 {number}")) for number in range(40)]
    assert first == [Choice.of(number, random.Random(f"0 {number}")) for number in range(40)]
    assert [choice.victim for choice in first[:4]] == list(victims.VICTIMS)
    assert all(choice.trigger == DRAFT for choice in first if choice.victim == victims.WRITER)
    assert len({choice.trigger for choice in first}) == 4


def test_the_writer_is_the_process_that_has_a_file_of_a_draft_open(tmp_path):
    (tmp_path / DRAFT_40).mkdir()
    hold = "import sys, time; file = open(sys.argv[1], 'w'); print('open', flush=True); time.sleep(60)"
    places = (tmp_path / "OWNER", tmp_path / DRAFT_40 / "state.h5")
    processes = [subprocess.Popen([sys.executable, "-c", hold, str(p)], stdout=subprocess.PIPE) for p in places]
    try:
        for process in processes:
            process.stdout.readline()
        found = victims.writing([psutil.Process(process.pid) for process in processes], tmp_path)
        assert found.pid == processes[1].pid
        victims.kill(victims.WRITER, psutil.Process(), [], found, random.Random(0))
        assert processes[1].wait(10) == -9
        assert processes[0].poll() is None
    finally:
        for process in processes:
            process.kill()
            process.communicate()
