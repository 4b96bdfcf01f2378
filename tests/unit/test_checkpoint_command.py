"""`hpcdist checkpoint` on real checkpoints of every layout, whole and damaged."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from hpcdist import checkpoint as package
from hpcdist.checkpoint import layout
from hpcdist.checkpoint.fence import LOCK, OWNER, Fence
from hpcdist.checkpoint.index import write_index
from hpcdist.checkpoint.layout import MANIFEST, STATE, Manifest, digest, directory_name, shapes_of, shard_name
from hpcdist.checkpoint.part import assemble, write_part
from hpcdist.checkpoint.reader import Checkpoint, committed, look, read, read_manifest
from hpcdist.checkpoint.shares import own_rows, shares
from hpcdist.checkpoint.tool import command
from hpcdist.checkpoint.tool import convert as conversion
from hpcdist.checkpoint.tool import export as exporting
from hpcdist.checkpoint.tool.progress import Advance
from hpcdist.checkpoint.tool.verify import damages
from hpcdist.checkpoint.writer import begin, commit
from hpcdist.cli.main import main

FACTS = {"configuration": {"lr": 0.1, "model": "mlp"}, "list": [1, 2.5, "three"]}
FORMAT = Path(package.__file__).parent / "FORMAT.md"


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PIECE", 400)


def arrays(step: int = 1) -> dict[str, np.ndarray]:
    """Arrays of 1, 2, 3 and no axes, without rows, without columns, and with names in groups."""
    random = np.random.default_rng(step)
    return {
        "parameters": random.normal(size=500).astype(np.float32),
        "layers/0/weight": random.normal(size=(20, 3, 5)),
        "optimizer/steps": np.array(step),
        "optimizer/velocity": np.arange(60, dtype=np.complex128).reshape(30, 2) * step,
        "empty": np.empty((0, 3), np.int64),
        "no columns": np.empty((5, 0), np.float32),
    }


def save(
    directory: Path,
    step: int = 1,
    writers: int = 1,
    values: Mapping[str, np.ndarray] | None = None,
    facts: dict[str, Any] | None = None,
    compression: str = "none",
) -> Path:
    """Commit a checkpoint by a run that ends with that."""
    values = arrays(step) if values is None else values
    fence = Fence(directory)
    draft = begin(fence, step)
    parts = shares(shapes_of(values), writers)
    names = [STATE] if writers == 1 else [shard_name(k, writers) for k in range(writers)]
    written = [write_part(draft, n, own_rows(values, s), s, compression) for n, s in zip(names, parts, strict=True)]
    manifest = assemble(step, fence.token, FACTS if facts is None else facts, shapes_of(values), written)
    if writers > 1:
        manifest.files[STATE] = write_index(draft, manifest.arrays)
    path = commit(fence, draft, manifest)
    own(directory, process=ended())
    return path


def own(directory: Path, **fields: Any) -> None:
    """Change the OWNER file."""
    said = json.loads((directory / OWNER).read_text())
    (directory / OWNER).write_text(json.dumps(said | fields))


def ended() -> int:
    """Number of a process that has ended."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def call(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["checkpoint", *map(str, arguments)])


def good(*arguments: Any) -> str:
    done = call(*arguments)
    assert done.exit_code == 0, done.output
    return done.stdout


def failed(*arguments: Any, code: int = 1) -> str:
    done = call(*arguments)
    assert done.exit_code == code, done.output
    assert isinstance(done.exception, SystemExit)  # and no traceback
    return done.output


def flip(file: Path, offset: int) -> None:
    raw = bytearray(file.read_bytes())
    raw[offset] ^= 1
    file.write_bytes(raw)


def flip_row(path: Path, name: str, row: int) -> str:
    """Flip a bit in a row of an array; returns the file's name."""
    entry = look(path).manifest.arrays[name]
    piece = next(piece for piece in entry.pieces if piece.start <= row < piece.stop)
    with h5py.File(path / piece.file, locking=False) as file:
        offset = file[name].id.get_offset() + (piece.at + row - piece.start) * file[name][:1].nbytes
    flip(path / piece.file, offset)
    return piece.file


def rewrite(path: Path, **fields: Any) -> None:
    """Change a manifest, with a digest that fits."""
    manifest = read_manifest(path)
    (path / MANIFEST).write_text(replace(manifest, **fields).to_json())


# --- list -------------------------------------------------------------------------------------------------


def test_list_shows_what_is_there(tmp_path: Path) -> None:
    save(tmp_path, 20)
    os.truncate(save(tmp_path, 30) / STATE, 100)
    (save(tmp_path, 40) / MANIFEST).unlink()
    os.rename(save(tmp_path, 50), tmp_path / "step-00000050.damaged-abc")
    save(tmp_path, 100, writers=3)
    (tmp_path / "step-00000120.tmp-abc").mkdir()
    text = good("list", tmp_path)
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert list(lines)[2:] == [
        *(directory_name(step) for step in (20, 30, 40, 100)),
        "step-00000050.damaged-abc",
        "step-00000120.tmp-abc",
    ]
    assert lines["step-00000020"].endswith("1  looks whole")
    assert lines["step-00000100"].endswith("3  looks whole")
    assert "damaged: state.h5 has 100 bytes" in lines["step-00000030"]
    assert "?  damaged: it has no manifest.json" in lines["step-00000040"]
    assert lines["step-00000050.damaged-abc"].endswith("set aside as damaged")
    assert lines["step-00000120.tmp-abc"].endswith("left over")


def test_list_in_json_has_every_number(tmp_path: Path) -> None:
    path = save(tmp_path, 20, writers=2)
    found = json.loads(good("list", tmp_path, "--json"))
    line = found["checkpoints"][0]
    assert (line["name"], line["step"], line["files"], line["damage"]) == (path.name, 20, 2, None)
    assert line["nbytes"] == sum(file.stat().st_size for file in path.iterdir())
    assert found["owner"]["token"] == read_manifest(path).token
    assert found["owner"]["running"] is False
    assert found["damaged"] == found["drafts"] == []


def test_list_knows_a_draft_that_is_being_written(tmp_path: Path) -> None:
    draft = begin(Fence(tmp_path), 7).name
    (tmp_path / "step-00000006.tmp-abc").mkdir()
    text = good("list", tmp_path)
    assert "alive on this host" in text
    assert f"  {draft}  draft: being written" in text
    assert "  step-00000006.tmp-abc  draft: left over" in text
    own(tmp_path, process=ended())
    assert f"  {draft}  draft: left over" in good("list", tmp_path)


def test_list_of_an_empty_directory(tmp_path: Path) -> None:
    assert good("list", tmp_path).splitlines() == [f"{tmp_path}: owned by nobody", "  no checkpoints"]


def test_list_of_a_checkpoint_is_a_wrong_use(tmp_path: Path) -> None:
    assert "give the directory above" in failed("list", save(tmp_path), code=2)


# --- show and which checkpoint is meant ---------------------------------------------------------------------


def test_show_prints_facts_files_and_arrays(tmp_path: Path) -> None:
    save(tmp_path, 3)
    path = save(tmp_path, 20, writers=2)
    text = good("show", path)
    assert text.startswith("step 20, committed 2")
    assert re.search(r'configuration\.model +"mlp"\n', text)
    assert re.search(r"layers/0/weight +\[20, 3, 5\] +float64 <f8 +2\.344 KiB", text)
    assert re.search(r"optimizer/steps +\[\] +int64 <i8 +8 B +1 +shard-000[01]-of-0002.h5\n", text)
    assert "shard-0000-of-0002.h5 .. shard-0001-of-0002.h5" in text
    done = call("show", tmp_path)
    assert done.stdout == text
    assert done.stderr == f"{tmp_path}: the newest is step-00000020\n"


def test_show_of_a_torn_checkpoint_still_shows_the_manifest(tmp_path: Path) -> None:
    path = save(tmp_path)
    (path / STATE).unlink()
    text = failed("show", path)
    assert "optimizer/steps" in text
    assert "Error: damaged checkpoint" in text
    assert "state.h5 is missing" in text


@pytest.mark.parametrize("verb", ["show", "verify"])
def test_the_newest_is_meant_even_if_it_is_damaged(tmp_path: Path, verb: str) -> None:
    save(tmp_path, 1)
    (save(tmp_path, 2) / MANIFEST).unlink()
    text = failed(verb, tmp_path)
    assert "step-00000002: it has no manifest.json" in text
    good(verb, tmp_path / "step-00000001")


@pytest.mark.parametrize("verb", [["show"], ["verify"], ["verify", "--all"]])
def test_where_no_checkpoint_is_the_use_is_wrong(tmp_path: Path, verb: list[str]) -> None:
    assert "there is none in it" in failed(*verb, tmp_path, code=2)
    assert "does not exist" in failed(*verb, tmp_path / "lost", code=2)


# --- verify -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writers", [1, 2, 5, 40])
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_whole_checkpoints_of_all_layouts_are_whole(tmp_path: Path, writers: int, compression: str) -> None:
    path = save(tmp_path, writers=writers, compression=compression)
    assert good("verify", path) == f"{path}: whole, 6 arrays, 5.242 KiB\n"


def test_every_damage_is_named(tmp_path: Path) -> None:
    path = save(tmp_path, writers=4)
    pieces = read_manifest(path).arrays["parameters"].pieces
    first = flip_row(path, "parameters", 0)
    second = flip_row(path, "parameters", pieces[1].start)
    flip_row(path, "layers/0/weight", 2)
    (path / shard_name(3, 4)).unlink()
    lines = failed("verify", path).splitlines()
    assert len(lines) == 4
    assert "shard-0003-of-0004.h5 is missing; in it: " in lines[0]
    assert "optimizer/velocity" in lines[0]
    assert f"{first}: rows 0 to {pieces[0].stop - 1} of parameters does not fit" in lines[1]
    assert f"{second}: rows {pieces[1].start} to {pieces[1].stop - 1} of parameters does not fit" in lines[2]
    assert "layers/0/weight does not fit its digest" in lines[3]


def test_a_truncated_file_loses_only_what_was_in_its_end(tmp_path: Path) -> None:
    path = save(tmp_path)
    with h5py.File(path / STATE, locking=False) as file:
        end = max(data.id.get_offset() or 0 for data in (file["parameters"], file["layers/0/weight"]))
    os.truncate(path / STATE, end + 10)
    lines = failed("verify", path).splitlines()
    assert f"state.h5 has {end + 10} bytes, " in lines[0]
    assert len(lines) > 1


def test_a_torn_header_is_named_for_every_array_in_the_file(tmp_path: Path) -> None:
    path = save(tmp_path)
    flip(path / STATE, 0)
    text = failed("verify", path)
    assert all(f"state.h5: {name} cannot be read" in text for name in arrays())


def test_damage_in_what_is_compressed_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = save(tmp_path, compression="gzip", values={"x": np.arange(500.0), "y": np.arange(300.0)})
    with h5py.File(path / STATE, locking=False) as file:
        offset = file["x"].id.get_chunk_info(0).byte_offset
    flip(path / STATE, offset + 20)
    text = failed("verify", path)
    assert "state.h5: x cannot be read" in text or "of x does not fit its digest" in text
    assert " y " not in text


def test_all_checkpoints_are_verified_after_a_damaged_one(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    flip_row(tmp_path / "step-00000002", "parameters", 5)
    (tmp_path / "step-00000001" / MANIFEST).write_text("{")
    lines = failed("verify", tmp_path, "--all").splitlines()
    assert [line.split(": ")[0].removeprefix(f"{tmp_path}/") for line in lines] == [
        directory_name(step) for step in (1, 2, 3)
    ]
    assert "whole" in lines[2]
    shutil.rmtree(tmp_path / "step-00000002")
    shutil.rmtree(tmp_path / "step-00000001")
    good("verify", tmp_path, "--all")


def test_what_a_run_removes_meanwhile_is_not_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)

    def late(found: Checkpoint, advance: Advance) -> Iterator[str]:
        if found.step < 3:
            shutil.rmtree(found.path)
        return damages(found, advance)

    monkeypatch.setattr(command, "damages", late)
    assert "was removed while it was read" in failed("verify", tmp_path / "step-00000001")
    done = call("verify", "--all", tmp_path)
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path}/step-00000003: whole, 6 arrays, 5.242 KiB\n"
    assert done.stderr.startswith(f"{tmp_path}/step-00000002 was removed while it was read")


@pytest.mark.parametrize("name", ["parameters", "empty", "optimizer/steps"])
def test_an_index_without_an_array_is_damage(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, writers=3)
    entries = read_manifest(path).arrays
    replace_index(path, {n: entry for n, entry in entries.items() if n != name})
    assert f"state.h5 does not show {name}: " in failed("verify", path)


def test_an_index_that_shows_other_rows_is_damage(tmp_path: Path) -> None:
    values = {"x": np.arange(100.0), "y": np.arange(100.0)}
    path = save(tmp_path, writers=3, values=values)
    entries = read_manifest(path).arrays
    x = entries["x"]
    moved = [layout.Piece(p.file, p.at + 1, p.start, p.stop, p.digest) for p in x.pieces]
    replace_index(path, {**entries, "x": layout.Entry(x.shape, x.dtype, tuple(moved))})
    text = failed("verify", path)
    assert "state.h5 does not show rows 50 to 65 of x as they are in shard-0000-of-0003.h5" in text
    assert " of y " not in text


def test_an_index_of_another_dtype_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path, writers=2, values={"x": np.arange(100.0), "y": np.arange(4.0)})
    entries = read_manifest(path).arrays
    replace_index(path, {**entries, "x": layout.Entry((100,), "<f4", entries["x"].pieces)})
    assert failed("verify", path).count("state.h5 shows x as <f4[100], not <f8[100]") == 1


def replace_index(path: Path, entries: Mapping[str, layout.Entry]) -> None:
    (path / STATE).unlink()
    rewrite(path, files={**read_manifest(path).files, STATE: write_index(path, entries)})


def test_a_lost_index_is_named_once(tmp_path: Path) -> None:
    path = save(tmp_path, writers=3)
    (path / STATE).unlink()
    assert failed("verify", path) == f"{path}: state.h5 is missing\n"


def test_pieces_that_leave_rows_out_are_damage(tmp_path: Path) -> None:
    path = save(tmp_path)
    entries = read_manifest(path).arrays
    entry = entries["parameters"]
    rewrite(path, arrays={**entries, "parameters": layout.Entry(entry.shape, entry.dtype, entry.pieces[:-1])})
    for verb in ("verify", "show"):
        assert "do not hold each of its 500 rows once" in failed(verb, path)


def test_a_renamed_checkpoint_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path, 5).rename(tmp_path / "step-00000006")
    for verb in ("verify", "show"):
        assert "manifest is of step 5, its name says 6" in failed(verb, path)


def test_a_checkpoint_set_aside_can_be_verified_by_its_name(tmp_path: Path) -> None:
    path = save(tmp_path).rename(tmp_path / "step-00000001.damaged-abc")
    flip_row(path, "parameters", 0)
    assert "rows 0 to 99 of parameters" in failed("verify", path)


def test_one_piece_at_a_time_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"x": np.zeros(16 << 20, np.uint8), "y": np.zeros((16, 1 << 20), np.uint8)}
    monkeypatch.setattr(layout, "PIECE", 1 << 20)
    path, other = save(tmp_path / "a", writers=3, values=values), save(tmp_path / "b", values=values)
    program = """
import re, sys
from pathlib import Path
from click.testing import CliRunner
from hpcdist.cli.main import main
small, *large = sys.argv[1:]
def peak(arguments):
    assert CliRunner().invoke(main, ["checkpoint", *arguments]).exit_code == 0
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
before = peak([large[0]] + [small] * (len(large) - 1))
print(peak(large) - before)
"""
    small = save(tmp_path / "small", writers=3)
    for verb in (["verify", path], ["verify", other], ["compare", path, other]):
        command = [sys.executable, "-c", program, small, *verb]
        more = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert more < 12 << 20  # of 32 MiB


# --- compare ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writers", [(1, 1), (1, 4), (3, 5), (40, 2)])
def test_equal_states_are_equal_in_all_layouts(tmp_path: Path, writers: tuple[int, int]) -> None:
    save(tmp_path / "a", 7, writers[0])
    save(tmp_path / "b", 7, writers[1], compression="gzip")
    done = good("compare", tmp_path / "a", tmp_path / "b")
    assert done == "equal bit for bit: step 7, 6 arrays, 5.242 KiB\n"


def test_states_cut_into_other_pieces_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = save(tmp_path / "a", writers=3)
    monkeypatch.setattr(layout, "PIECE", 136)
    other = save(tmp_path / "b", writers=2)
    good("compare", one, other)
    values = arrays()
    values["parameters"][[299, 499]] = 0
    different = save(tmp_path / "c", writers=2, values=values)
    text = failed("compare", one, different)
    was = arrays()["parameters"][299]
    assert text == f"parameters: 2 of 500 elements differ, first at [299]: {was} and 0.0\n"


def test_every_difference_is_printed(tmp_path: Path) -> None:
    values = arrays()
    values["layers/0/weight"][3, 1, 2] = np.nan
    values["optimizer/velocity"][:, 1] = -1
    values["optimizer/steps"] = np.array(9)
    values["empty"] = np.empty((0, 4), np.int64)
    values["no columns"] = np.empty((5, 0), np.float64)
    values["new"] = values.pop("parameters")
    one, other = save(tmp_path / "a", 1), save(tmp_path / "b", 2, writers=3, values=values)
    lines = failed("compare", one, other).splitlines()
    assert lines[0] == "step: 1 and 2"
    assert lines[1] == "parameters: <f4[500] and missing"
    assert re.fullmatch(r"layers/0/weight: 1 of 300 elements differs, first at \[3, 1, 2\]: \S+ and nan", lines[2])
    assert lines[3] == "optimizer/steps: 1 of 1 element differs, first 1 and 9"
    assert lines[4].startswith("optimizer/velocity: 30 of 60 elements differ, first at [0, 1]: ")
    assert lines[5] == "empty: <i8[0, 3] and <i8[0, 4]"
    assert lines[6] == "no columns: <f4[5, 0] and <f8[5, 0]"
    assert lines[7:] == ["new: missing and <f4[500]"]


def test_bits_count_and_not_values(tmp_path: Path) -> None:
    zero = save(tmp_path / "a", values={"x": np.array([0.0, np.nan])})
    minus = save(tmp_path / "b", values={"x": np.array([-0.0, np.nan])})
    good("compare", zero, zero)
    assert "1 of 2 elements differs, first at [0]: 0.0 and -0.0" in failed("compare", zero, minus)


@pytest.mark.parametrize("dtype", ["?", "i1", "<u2", ">f4", "<f8", "c8", "c16", "f2"])
def test_elements_of_every_size_are_compared(tmp_path: Path, dtype: str) -> None:
    values = np.zeros((40, 7), dtype)
    one = save(tmp_path / "a", values={"x": values})
    values[[11, 39], [2, 6]] = 1
    other = save(tmp_path / "b", values={"x": values}, writers=3)
    assert "x: 2 of 280 elements differ, first at [11, 2]: " in failed("compare", one, other)
    good("compare", other, other)


def test_facts_count_only_if_asked_for(tmp_path: Path) -> None:
    facts = {"configuration": {"lr": 0.2, "model": "mlp"}, "new": None}
    one, other = save(tmp_path / "a"), save(tmp_path / "b", facts=facts)
    told = [
        "fact configuration.lr: 0.1 and 0.2",
        'fact list: [1, 2.5, "three"] and missing',
        "fact new: missing and null",
    ]
    assert good("compare", one, other).splitlines()[:-1] == told
    assert failed("compare", "--facts", one, other).splitlines() == told
    good("compare", "--facts", one, one)


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("name", ["parameters", "only"])
def test_damage_in_either_is_an_error(tmp_path: Path, damaged: int, name: str) -> None:
    values = arrays() | {"only": np.arange(300.0)}
    paths = [save(tmp_path / side, values=values, writers=2) for side in "ab"]
    if name == "only":  # an array that there is nothing to compare with
        paths[1 - damaged] = save(tmp_path / "without")
    flip_row(paths[damaged], name, 250)
    text = failed("compare", *paths)
    assert f"Error: damaged checkpoint {paths[damaged]}" in text
    assert f"of {name} does not fit its digest" in text


def test_a_wrong_call_of_compare(tmp_path: Path) -> None:
    failed("compare", save(tmp_path), code=2)


# --- convert ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writers", [1, 3, 7])
@pytest.mark.parametrize("options", [[], ["--writers", "4"], ["--layout", "single"], ["--compression", "gzip"]])
def test_what_is_converted_has_the_same_content(tmp_path: Path, writers: int, options: list[str]) -> None:
    save(tmp_path / "a", 12, writers)
    source = tmp_path / "a" / "step-00000012"
    text = good("convert", source, tmp_path / "deep" / "er", *options)
    path = tmp_path / "deep" / "er" / "step-00000012"
    assert text.startswith(f"{path}: written")
    good("compare", "--facts", source, path)
    good("verify", path)
    found = read(look(path))
    assert {n: (v.shape, v.dtype, v.tobytes()) for n, v in found.items()} == {
        n: (v.shape, v.dtype, v.tobytes()) for n, v in arrays(12).items()
    }
    assert len(list(path.glob("shard-*"))) == (4 if "4" in options else 0)
    assert sorted(file.name for file in path.parent.iterdir()) == [LOCK, OWNER, "step-00000012"]
    assert look(path).manifest.token == json.loads((path.parent / OWNER).read_text())["token"]


def test_large_states_get_several_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "PIECE", 1 << 20)
    source = save(tmp_path / "a", values={"x": np.zeros(9 << 20, np.uint8)})
    good("convert", source, tmp_path / "b")
    assert len(list((tmp_path / "b" / "step-00000001").glob("shard-*"))) == 2


def test_compressed_files_are_smaller(tmp_path: Path) -> None:
    source = save(tmp_path / "a", values={"x": np.zeros(10000)})
    good("convert", source, tmp_path / "b", "--compression", "gzip")
    assert (tmp_path / "b" / source.name / STATE).stat().st_size < 8000


def test_nothing_is_converted_over_a_checkpoint(tmp_path: Path) -> None:
    source, other = save(tmp_path / "a"), save(tmp_path / "b", values={"x": np.arange(3)})
    token = (tmp_path / "b" / OWNER).read_text()
    assert "never written over" in failed("convert", source, tmp_path / "b")
    assert "never written over" in failed("convert", source, tmp_path / "a")
    assert list(read(look(other))) == ["x"]
    assert (tmp_path / "b" / OWNER).read_text() == token  # nobody was fenced out for nothing


def test_a_damaged_checkpoint_is_not_converted(tmp_path: Path) -> None:
    source = save(tmp_path / "a", writers=2)
    flip_row(source, "layers/0/weight", 11)
    assert "does not fit its digest" in failed("convert", source, tmp_path / "b", "--writers", 2)
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == [LOCK, OWNER]


def test_what_does_not_read_back_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(folder: Path, entries: Mapping[str, layout.Entry]) -> int:
        return write_index(folder, {name: entry for name, entry in entries.items() if name != "parameters"})

    source = save(tmp_path / "a")
    monkeypatch.setattr(conversion, "write_index", forgetful)
    text = failed("convert", source, tmp_path / "b", "--writers", 2)
    assert "does not read back as it was written: state.h5 does not show parameters" in text
    assert sorted(file.name for file in (tmp_path / "b").iterdir()) == [LOCK, OWNER]


def test_a_layout_that_cannot_be(tmp_path: Path) -> None:
    text = failed("convert", save(tmp_path), tmp_path / "b", "--layout", "single", "--writers", 2, code=2)
    assert "--layout single is one file" in text


def test_the_directory_of_a_run_that_goes_on_is_not_converted_into(tmp_path: Path) -> None:
    source = save(tmp_path / "a")
    fence = Fence(tmp_path / "b")
    assert "is in use by" in failed("convert", source, tmp_path / "b")
    with fence.held():
        assert committed(tmp_path / "b") == []
    good("convert", source, tmp_path / "b", "--force")


# --- prune ------------------------------------------------------------------------------------------------


def steps(directory: Path) -> list[int]:
    return [look(path).step for path in committed(directory)]


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3, 40):
        save(tmp_path, step, writers=step % 3 + 1)
    (tmp_path / "step-00000041.tmp-abc").mkdir()
    (tmp_path / "step-00000002.damaged-abc").mkdir()
    (tmp_path / ".OWNER.0123456789ab").touch()
    text = good("prune", tmp_path, "--keep", 2)
    assert steps(tmp_path) == [3, 40]
    assert text.count("removed\n") == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        LOCK, OWNER, "step-00000002.damaged-abc", "step-00000003", "step-00000040",
    ]  # fmt: skip


def test_drafts_and_damaged_ones_go_however_few_checkpoints_there_are(tmp_path: Path) -> None:
    save(tmp_path)
    draft, aside = tmp_path / "step-00000041.tmp-abc", tmp_path / "step-00000002.damaged-abc"
    draft.mkdir()
    aside.mkdir()
    assert f"{draft}: removed" in good("prune", tmp_path, "--keep", 1)
    assert aside.exists()
    assert not draft.exists()
    own(tmp_path, process=ended())
    assert f"{aside}: removed" in good("prune", tmp_path, "--keep", 1, "--damaged")
    assert not aside.exists()
    assert len(steps(tmp_path)) == 1


def test_prune_with_nothing_to_remove_takes_nothing(tmp_path: Path) -> None:
    save(tmp_path)
    token = (tmp_path / OWNER).read_text()
    assert "none is too many" in good("prune", tmp_path, "--keep", 1)
    assert (tmp_path / OWNER).read_text() == token
    failed("prune", tmp_path, "--keep", 0, code=2)
    failed("prune", tmp_path, code=2)


def test_the_last_good_checkpoint_is_never_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    flip_row(tmp_path / "step-00000003", "parameters", 5)
    assert "none that would stay is whole" in failed("prune", tmp_path, "--keep", 1)
    assert steps(tmp_path) == [1, 2, 3]
    own(tmp_path, process=ended())
    done = call("prune", tmp_path, "--keep", 2)
    assert done.exit_code == 0
    assert "Warning: damaged checkpoint" in done.stderr
    assert "step-00000002 was read and is whole" in done.stdout
    assert steps(tmp_path) == [2, 3]


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A directory with three checkpoints, owned by a run that has ended."""
    for step in (1, 2, 3):
        save(tmp_path / "three", step)
    return tmp_path / "three"


def refused(directory: Path, why: str) -> None:
    """See that nothing is removed, unless by force."""
    text = failed("prune", directory, "--keep", 1)
    assert "in use by" in text
    assert why in text
    assert steps(directory) == [1, 2, 3]
    good("prune", directory, "--keep", 1, "--force")
    assert steps(directory) == [3]


def test_a_living_process_keeps_its_directory(three: Path) -> None:
    child = subprocess.Popen(["sleep", "100"])
    try:
        own(three, process=child.pid, time=time.strftime("%Y-%m-%d %H:%M:%S %z"))
        refused(three, "that process is alive on this host")
    finally:
        child.kill()
        child.wait()


def test_a_process_that_took_over_the_number_of_an_owner_is_not_the_owner(three: Path) -> None:
    own(three, process=os.getpid(), time="2020-01-01 00:00:00 +0000")
    good("prune", three, "--keep", 1)


def test_a_dead_process_that_nobody_has_waited_for_is_not_alive(three: Path) -> None:
    child = subprocess.Popen(["true"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    own(three, process=child.pid)
    good("prune", three, "--keep", 1)
    child.wait()


def test_of_a_process_elsewhere_nothing_is_known(three: Path) -> None:
    own(three, host="elsewhere", process=os.getpid(), time=time.strftime("%Y-%m-%d %H:%M:%S %z"))
    refused(three, "can be seen on elsewhere only")


def test_an_owner_that_cannot_be_read_may_be_running(three: Path) -> None:
    (three / OWNER).write_text("{")
    refused(three, "cannot be read")


SQUEUE = """#!/bin/sh
[ "$*" = "--noheader --format=%T --jobs=77" ] || exit 3
{body}
"""


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo RUNNING", "Slurm says that job 77 is RUNNING"),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", "Unable to contact"),
        ("true", None),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", None),
    ],
)
def test_slurm_is_asked_for_a_job(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, why: str | None
) -> None:
    put_squeue(tmp_path, monkeypatch, body)
    own(three, host="elsewhere", job="77")
    if why:
        refused(three, why)
    else:
        good("prune", three, "--keep", 1)


def put_squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    """A stand-in that answers as Slurm 22.05 was seen to; without one, a unit test has no other."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "squeue").write_text(SQUEUE.format(body=body))
    (folder / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_without_slurm_nothing_is_known_of_a_job(three: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    own(three, job="77")
    refused(three, "Slurm cannot be asked here for job 77")


def test_a_job_may_prune_after_its_own_run(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_squeue(tmp_path, monkeypatch, "echo RUNNING")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    own(three, job="77", host=socket.gethostname())
    good("prune", three, "--keep", 1)


# --- export -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("writers", [1, 3])
def test_parameters_are_exported_to_hdf5(tmp_path: Path, writers: int) -> None:
    path = save(tmp_path, writers=writers)
    text = good("export", path, tmp_path / "out" / "p.h5")
    assert text.endswith("p.h5: parameters, 1.953 KiB, of step 1\n")
    with h5py.File(tmp_path / "out" / "p.h5", locking=False) as file:
        assert list(file) == ["parameters"]
        np.testing.assert_array_equal(file["parameters"][:], arrays()["parameters"], strict=True)


def test_all_is_exported_to_hdf5(tmp_path: Path) -> None:
    good("export", save(tmp_path, writers=3), tmp_path / "p.h5", "--only", "*")
    with h5py.File(tmp_path / "p.h5", locking=False) as file:
        for name, values in arrays().items():
            np.testing.assert_array_equal(np.array(file[name][()]), values, strict=True)


def test_all_is_exported_to_npz(tmp_path: Path) -> None:
    values = arrays() | {"file": np.arange(3)}  # a name that numpy.savez does not take
    good("export", save(tmp_path, writers=3, values=values), tmp_path / "p.npz", "--only", "*")
    with np.load(tmp_path / "p.npz") as found:
        assert set(found) == set(values)
        for name in values:
            np.testing.assert_array_equal(found[name], values[name], strict=True)


def test_parameters_are_exported_to_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    values = arrays() | {"big": np.arange(3, dtype=">f4")}
    good("export", save(tmp_path, writers=3, values=values), tmp_path / "p.pt", "--only", "*")
    found = torch.load(tmp_path / "p.pt", weights_only=True)
    assert set(found) == set(values)
    for name in values:
        np.testing.assert_array_equal(found[name].numpy(), values[name].astype(values[name].dtype.newbyteorder("=")))


def test_without_torch_the_export_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "writing .pt needs torch" in failed("export", save(tmp_path), tmp_path / "p.pt")


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    path = save(tmp_path)
    text = failed("export", path, tmp_path / "p.h5", "--only", "weights", code=2)
    assert "no array of" in text
    assert "layers/0/weight" in text
    assert "does not end in .h5, .npz, .pt" in failed("export", path, tmp_path / "p.txt", code=2)


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_a_damaged_checkpoint_is_not_exported_over_a_file(tmp_path: Path, suffix: str) -> None:
    path, file = save(tmp_path / "a"), tmp_path / f"p{suffix}"
    file.write_text("as before")
    flip_row(path, "parameters", 499)
    assert "rows 400 to 499 of parameters" in failed("export", path, file)
    assert file.read_text() == "as before"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", file.name]


def test_every_suffix_has_a_test() -> None:
    assert list(exporting.WRITERS) == [".h5", ".npz", ".pt"]


# --- the command itself -----------------------------------------------------------------------------------


def test_it_needs_no_mpi(tmp_path: Path) -> None:
    path = save(tmp_path / "a", writers=2)
    program = """
import sys
sys.modules["mpi4py"] = None
from hpcdist.cli.main import main
main(["checkpoint", *sys.argv[1:]])
"""
    for arguments in (["list", path.parent], ["verify", path], ["convert", path, tmp_path / "b"]):
        subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)
    assert read(look(tmp_path / "b" / path.name))


@pytest.mark.parametrize("verb", ["verify", "compare"])
def test_a_bar_is_shown_on_a_terminal_only_and_out_of_the_way(tmp_path: Path, verb: str) -> None:
    path, other = save(tmp_path / "a", 1), save(tmp_path / "b", 2)
    if verb == "verify":
        flip_row(path, "parameters", 0)
    program = "import sys; from hpcdist.cli.main import main; main(sys.argv[1:])"
    arguments = [sys.executable, "-c", program, "checkpoint", verb, path, *[other] * (verb == "compare")]
    silent = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert silent.stderr == ""
    piped, screen = on_terminal(arguments, stdout=subprocess.PIPE)
    assert piped == silent.stdout
    assert "━" in screen
    _, screen = on_terminal(arguments)
    for line in silent.stdout.splitlines():
        before, found, _ = screen.partition(line)
        assert found
        assert before.rpartition("\x1b[2K")[2].strip("\r\n") == ""  # the bar's line is wiped, or it is a new one


def on_terminal(arguments: Sequence[str | Path], **options: Any) -> tuple[str, str]:
    """Run a command with a terminal; what it wrote to stdout, if that is a pipe, and what came to the screen."""
    master, slave = os.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300"}
    child = subprocess.Popen(arguments, env=environment, text=True, **{"stdout": slave, "stderr": slave, **options})
    os.close(slave)
    screen = b""
    with contextlib.suppress(OSError):  # it is an error to read when all writers have gone
        while raw := os.read(master, 1 << 16):
            screen += raw
    os.close(master)
    piped = child.communicate()[0] or ""
    assert child.returncode == 1
    return piped, screen.decode()


# --- FORMAT.md --------------------------------------------------------------------------------------------


def blocks(language: str) -> Sequence[str]:
    return re.findall(rf"```{language}\n(.*?)```", FORMAT.read_text(encoding="utf-8"), re.DOTALL)


def test_the_short_script_of_the_format_page_reads_parameters(tmp_path: Path) -> None:
    script = blocks("python")[0]
    assert sum(bool(line) for line in script.splitlines()) <= 5
    assert "hpcdist" not in script
    for writers in (1, 3):
        save(tmp_path / str(writers) / "checkpoints", 120, writers)
        folder = tmp_path / str(writers)
        printed = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True, check=True)
        assert printed.stdout.startswith(f"(500,) float32 {arrays(120)['parameters'][:3]}")


def test_the_checking_script_of_the_format_page_reads_and_checks(tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    exec(blocks("python")[1], names)
    for writers in (1, 4):
        path = save(tmp_path / str(writers), 120, writers, compression=("none", "gzip")[writers == 1])
        found = names["read"](path)
        for name, values in arrays(120).items():
            np.testing.assert_array_equal(found[name], values, strict=True)
    flip_row(path, "optimizer/velocity", 29)
    with pytest.raises(ValueError, match="optimizer/velocity is damaged in shard-0003-of-0004"):
        names["read"](path)
    (path / MANIFEST).write_text((path / MANIFEST).read_text().replace('"lr": 0.1', '"lr": 0.2'))
    with pytest.raises(ValueError, match="manifest is damaged"):
        names["read"](path)


def test_the_example_of_the_format_page_is_a_manifest() -> None:
    manifest = Manifest.from_json(blocks("json")[0])
    first, second = manifest.arrays["parameters"].pieces
    values = np.arange(6, dtype="<f4")
    assert (first.digest, second.digest) == (digest(values[:3]), digest(values[3:]))
    assert manifest.arrays["optimizer/steps"].pieces[0].digest == digest(np.array(120))


def test_an_index_shows_what_is_not_there_as_the_format_page_warns(tmp_path: Path) -> None:
    path = save(tmp_path, writers=3)
    (path / shard_name(0, 3)).unlink()
    with h5py.File(path / STATE, locking=False) as file:
        assert np.isnan(file["parameters"][0])
    assert "is missing" in failed("verify", path)
