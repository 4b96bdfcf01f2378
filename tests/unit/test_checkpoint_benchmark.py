"""The report on checkpoints: its statistics, its files, its tables; and what checkpoints cost a run."""

import os

import numpy as np
import pytest
from mpi4py import MPI

from hpcdist.bench import saved
from hpcdist.bench.checkpoints import cache, raw, room
from hpcdist.bench.checkpoints.report import (
    BACKGROUND,
    MEANING,
    PLAIN,
    RAW,
    SHARDS,
    UNIT,
    Load,
    Part,
    Report,
    Save,
    draw,
    text,
)
from hpcdist.bench.checkpoints.rounds import Saves
from hpcdist.bench.checkpoints.state import State
from hpcdist.bench.checkpoints.ways import ways
from hpcdist.bench.overhead import ranks as overhead
from hpcdist.bench.overhead import report as costs
from hpcdist.checkpoint.unchanged import HEAD
from hpcdist.models.mlp import MLP
from hpcdist.sweep.figure import save as save_figure
from hpcdist.util.sampling import Spread

MIB = 1 << 20


def save(way=SHARDS, ranks=4, nbytes=64 * MIB, seconds=0.5, share=0.5):
    spread = Spread(seconds, seconds / 2, 2 * seconds, 7)
    shares = Spread(share, share / 2, share * 2, 7)
    return Save(ranks, nbytes, 4, way, 7, spread, spread, shares, None, 5, nbytes + 4096)


def load(way=SHARDS, ranks=2):
    return Load(ranks, 4, 64 * MIB, way, 5, Spread(0.25, 0.2, 0.3, 5), Spread(0.9, 0.8, 1.0, 5), 0.03)


def report(**fields):
    machine = {
        "hosts": ["n1"],
        "cpu": "a processor",
        "cores_per_host": 2,
        "mpi": "Open MPI v5.0.0",
        "file_system": "ext4",
        "versions": {"hpcdist": "1.0", "torch": "2.9"},
    }
    saves = [save(way, nbytes=nbytes) for nbytes in (MIB, 64 * MIB) for way in (BACKGROUND, SHARDS, PLAIN, RAW)]
    return Report({"4 ranks": Part(["hpcdist", "x"], "then", machine=machine, rows=[*saves, load()], **fields)})


# --- numbers ---


def test_shares_are_paired_by_round_before_the_median_is_taken():
    limit, ours = [1.0, 2.0, 9.0], [2.0, 20.0, 10.0]
    assert Spread.paired(limit, ours).median == 0.5
    assert np.median(limit) / np.median(ours) != 0.5


def test_rounds_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        Spread.paired([1.0, 2.0], [1.0])


def test_bandwidth_is_that_of_the_median():
    assert save(seconds=0.5, nbytes=64 * MIB).bandwidth == 128 * MIB


# --- what is saved, and where ---


def test_the_state_is_random_bits_of_the_size_asked_for_and_its_names_can_be_forgotten():
    with State(MPI.COMM_SELF, 4 * UNIT) as state:
        assert sum(values.nbytes for values in state.arrays.values()) == 4 * UNIT
        folder = state.folder
        state.forget_names()
        assert not folder.exists()
        every = np.concatenate(list(state.arrays.values()))
        assert len(np.unique(every)) == len(every)


def test_a_state_that_has_changed_begins_otherwise_everywhere():
    with State(MPI.COMM_SELF, 4 * HEAD * UNIT // 8) as state:
        before = {name: values.copy() for name, values in state.arrays.items()}
        state.change()
        for name, values in state.arrays.items():
            assert (values.reshape(-1, HEAD // 8) != before[name].reshape(-1, HEAD // 8)).any(axis=1).all()


def test_ours_is_one_store_that_writes_all_of_the_state_each_time(tmp_path):
    with State(MPI.COMM_SELF, MIB) as state, ways(MPI.COMM_SELF, state, None) as found:
        saves = Saves(MPI.COMM_SELF, state, {BACKGROUND: found[BACKGROUND], RAW: found[RAW]}, tmp_path)
        saves.sample(3, 1e9)
        assert [save.rounds for save in saves.records()] == [3, 3]
        assert all(save.written >= MIB for save in saves.records())
        assert found[BACKGROUND].step == 4
        assert [path.name for path in (tmp_path / BACKGROUND).iterdir() if path.is_dir()] == []


def test_the_parts_of_raw_writers_are_the_whole_state(tmp_path):
    arrays = {"a": np.arange(10), "b": np.arange(100, 107)}
    for part in range(3):
        raw.write(tmp_path / str(part), arrays, part, 3)
    found = np.concatenate([np.fromfile(tmp_path / str(part), np.int64) for part in range(3)])
    assert sorted(found) == [*range(10), *range(100, 107)]
    assert raw.size(tmp_path)[0] == 3
    assert raw.read(tmp_path / "0", memoryview(bytearray(16))) == (tmp_path / "0").stat().st_size


def test_files_that_were_just_written_are_in_the_cache_until_it_is_dropped(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        file.write(b"x" * MIB)
        file.flush()
        os.fsync(file.fileno())
    assert cache.cached(tmp_path) == 1
    cache.drop(tmp_path)
    assert cache.cached(tmp_path) < 1  # on a file system that is memory, there is nothing else; so not in /dev/shm


def test_what_does_not_fit_is_said_with_numbers(tmp_path):
    assert room.lacking(MPI.COMM_SELF, MIB, tmp_path) == ""
    assert f"4096 TiB are needed on {tmp_path}" in room.lacking(MPI.COMM_SELF, 1 << 50, tmp_path)
    assert "takes 1024 TiB of a node's memory" in room.too_large(MPI.COMM_SELF, 1 << 50, (0, 1))
    assert room.too_large(MPI.COMM_SELF, 1 << 50, (0, 0)) == ""


# --- the report ---


def test_a_report_comes_back_from_its_file(tmp_path):
    one = report(missing=["8 ranks: left out"])
    one.write(tmp_path / "report.json")
    assert saved.read(tmp_path / "report.json", Part) == one


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 99}', '{"version": 2, "parts": {"4 ranks": {"rows": [{"type": "save"}]}}}']
)
def test_what_is_no_report_is_refused(tmp_path, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match=str(tmp_path)):
        saved.read(tmp_path / "file", Part)


def test_the_text_says_command_machine_ways_numbers_and_what_is_missing():
    told = text(report(missing=["no room"]), {"checkpoints": "checkpoints.png"})
    for words in ("hpcdist x", "a processor", "ext4", "torch 2.9", "checkpoints.png", "- 4 ranks: no room"):
        assert words in told
    assert all(MEANING[way] in told for way in (BACKGROUND, SHARDS, PLAIN, RAW))
    half = "50 % (25 to 100)"
    assert f"| 64 MiB | 4 | 7 | {half} | {half} | {half} | {half} |" in told
    assert "| 4 | 2 | 64 MiB | shards | 5 | 250 (200-300) | 268 | 90 % (80 to 100) | 3 % |" in told
    assert "bit for bit" in told


def test_what_was_wrong_is_not_called_right():
    one = report()
    one.rows[-1].wrong = True
    told = text(one, {})
    assert "## WRONG\n\n- 4 ranks: 64 MiB: shards restored something else\n" in told
    assert "bit for bit" not in told


def test_a_way_that_was_left_out_at_one_size_has_a_dash_there():
    one = report()
    part = one.parts["4 ranks"]
    part.rows = [each for each in part.rows if (each.way, each.nbytes) != (PLAIN, MIB)]
    half = "50 % (25 to 100)"
    assert f"| 1 MiB | 4 | 7 | {half} | {half} | - | {half} |" in text(one, {})


def test_the_figure_has_two_panels_for_each_number_of_ranks(tmp_path, monkeypatch):
    saves = [save(way, ranks) for ranks in (1, 4, 8) for way in (SHARDS, PLAIN, RAW)]
    drawn = []
    monkeypatch.setattr(
        "hpcdist.sweep.figure.save", lambda figure, files: drawn.append(figure) or save_figure(figure, files)
    )
    (file,) = draw(tmp_path, Report({"many": Part(rows=saves)}))
    assert len(drawn[0].axes) == 6
    assert file.stat().st_size
    assert draw(tmp_path, Report({})) == []


# --- the cost in a run ---


def test_the_model_is_as_large_as_was_asked_for():
    nbytes = 10**8
    model = MLP((overhead.FEATURES,), overhead.CLASSES, hidden=overhead.hidden_units(nbytes))
    assert nbytes <= 8 * model.size < nbytes + 8 * overhead.WEIGHTS


def test_every_step_changes_nearly_all_of_the_state_as_what_has_not_changed_is_not_written(tmp_path):
    with overhead._bench(MPI.COMM_SELF, MIB, 64, tmp_path) as bench:
        bench.trainer.step()
        before = {name: values.copy() for name, values in bench.trainer.arrays().items()}
        bench.trainer.step()
        changed = {name: np.mean(values != before[name]) for name, values in bench.trainer.arrays().items()}
    assert min(changed.values()) > 0.99


@pytest.mark.parametrize(("steps", "count"), [(90, 3), (7, 2), (1, 1), (100, 4)])
def test_checkpoints_are_evenly_spread_and_leave_time_at_the_end(steps, count):
    after = overhead.save_after(steps, count)
    assert len(after) == count
    assert after == sorted(after)
    assert 1 <= after[0] <= after[-1] <= steps
    assert overhead.save_after(90, 3) == [15, 45, 75]


def test_costs_are_ratios_within_a_round():
    rows = []
    for slowness in (1, 4, 2):
        rows += [
            costs.Period(costs.SINGLE, 15 * slowness, [2 * slowness, 2 * slowness]),
            costs.Period(costs.NONE, 10 * slowness, []),
            costs.Period(costs.BACKGROUND, 11 * slowness, [0.1 * slowness, 0.12 * slowness]),
        ]
    background, single = costs.costs(rows)
    assert background[2:] == ["2.00 % (2.00 to 2.00)", "10.00 % (10.00 to 10.00)"]
    assert single[1:] == ["4000 (2000-8000)", "26.67 % (26.67 to 26.67)", "50.00 % (50.00 to 50.00)"]
    part = costs.Part(["hpcdist"], "now", rows=rows, state=8 * MIB, steps=20, saves=2, seconds_per_step=0.5)
    words = costs.text(saved.Report({"4 ranks": part}), {})
    assert f"| {' | '.join(background)} |" in words
    assert (
        "8 MiB of parameters and momentum, 0.50 s a step; 3 rounds of periods of 20 steps with 2 checkpoints" in words
    )
