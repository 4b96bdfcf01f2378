"""`hpcdist data`: what is imported is what was there, and what cannot be learnt from is named with its place."""

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from hpcdist.data import importing
from hpcdist.data.command import data
from hpcdist.data.dataset import Dataset

N, FEATURES = 50, 3


@pytest.fixture
def samples():
    chance = np.random.default_rng(5)
    return chance.normal(size=(N, FEATURES)).astype(np.float32), chance.integers(4, size=N)


def call(*arguments, code=0):
    done = CliRunner().invoke(data, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def parts(path):
    with h5py.File(path) as file:
        return {name: file[name][()] for name in ("train/x", "train/y", "test/x", "test/y")}, dict(file.attrs)


def rows(path):
    """All samples with their labels, in an order of their own."""
    found, _ = parts(path)
    both = [np.column_stack([found[f"{split}/x"], found[f"{split}/y"]]) for split in ("train", "test")]
    return np.array(sorted(np.concatenate(both).tolist()))


def expected(x, y):
    return np.array(sorted(np.column_stack([x, y]).tolist()))


def csv(path, x, labels, header=True, place=FEATURES):
    lines = [[f"{value!r}" for value in row] for row in x.tolist()]
    for line, label in zip(lines, labels, strict=True):
        line.insert(place, str(label))
    names = [f"f{number}" for number in range(FEATURES)]
    names.insert(place, "kind")
    text = "\n".join(",".join(line) for line in ([names] if header else []) + lines) + "\n"
    path.write_text(text)
    return path


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize(("place", "label"), [(FEATURES, None), (0, "0"), (1, "-3"), (2, "kind")])
def test_a_table_is_imported_whole(tmp_path, samples, header, place, label):
    if label == "kind" and not header:
        label = "2"
    x, y = samples
    source, out = csv(tmp_path / "d.csv", x, y, header, place), tmp_path / "d.h5"
    call("import", source, "-o", out, *(["--label", label] if label else []))
    np.testing.assert_array_equal(rows(out), expected(x, y))


def test_more_rows_than_a_block_and_text_for_labels(tmp_path):
    x = np.arange(5000 * FEATURES, dtype=np.float32).reshape(-1, FEATURES)
    y = np.arange(5000) % 3
    names = np.array(["oak", "ash", "elm"])[y]
    said = call("import", csv(tmp_path / "d.csv", x, names), "-o", tmp_path / "d.h5", "--test", "0.25")
    assert "classes: 0 ash, 1 elm, 2 oak" in said
    np.testing.assert_array_equal(rows(tmp_path / "d.h5"), expected(x, np.array([2, 0, 1])[y]))
    found, attributes = parts(tmp_path / "d.h5")
    assert list(attributes["names"]) == ["ash", "elm", "oak"]
    assert len(found["test/y"]) == 1250


def test_arrays_of_numpy_in_one_part_and_in_two(tmp_path, samples):
    x, y = samples
    np.savez(tmp_path / "one.npz", X=x, y=y + 1)
    said = call("import", tmp_path / "one.npz", "-o", tmp_path / "one.h5")
    assert "classes: 0 1, 1 2, 2 3, 3 4" in said
    np.testing.assert_array_equal(rows(tmp_path / "one.h5"), expected(x, y))

    both = {"train_x": x[:30], "train_y": y[:30], "test_x": x[30:], "test_y": y[30:]}
    np.savez(tmp_path / "two.npz", **both)
    call("import", tmp_path / "two.npz", "-o", tmp_path / "two.h5")
    for name, values in parts(tmp_path / "two.h5")[0].items():
        np.testing.assert_array_equal(values, both[name.replace("/", "_")])

    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    call("import", tmp_path / "x.npy", tmp_path / "y.npy", "-o", tmp_path / "three.h5", "--seed", "7")
    np.testing.assert_array_equal(rows(tmp_path / "three.h5"), expected(x, y))


def test_standardised_by_the_part_to_learn_from(tmp_path, samples):
    x, y = samples
    x[:, 1] = 7  # never changes
    np.savez(tmp_path / "d.npz", train_x=10 * x[:30] + 3, train_y=y[:30], test_x=x[30:], test_y=y[30:])
    call("import", tmp_path / "d.npz", "-o", tmp_path / "d.h5", "--standardise")
    found, _ = parts(tmp_path / "d.h5")
    np.testing.assert_allclose(found["train/x"].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(found["train/x"].std(0), [1, 0, 1], rtol=1e-6)
    assert abs(found["test/x"][:, [0, 2]].mean()) > 0.05


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows below its header"),
        ("1,2,0\n1,2\n", "line 2: 2 columns; the first line has 3"),
        ("a,b,c\n1,2,0\n1,x,1\n", "line 3: 'x' in column 'b'"),
        ("1,2,0\n1,nan,1\n", "line 2: 'nan' in column 1"),
        ("1,2,0\n1,1e39,1\n", "line 2: '1e39' in column 1"),
        ("1,2,0\n\n1,2,\n", "line 3: there is no label in column 2"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, text, said):
    (tmp_path / "d.csv").write_text(text)
    output = call("import", tmp_path / "d.csv", "-o", tmp_path / "d.h5", code=1)
    assert said in output
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"a": np.ones(3)}, "has a; it must have x and y"),
        ({"x": np.ones((4, 2)), "y": np.arange(3)}, "y is (3,), but x (4, 2)"),
        ({"x": np.ones(4), "y": np.arange(4)}, "x is float64 (4,)"),
        ({"x": np.array([[1, 2], [3, np.inf]]), "y": np.arange(2)}, "x[1, 1] is inf"),
        ({"x": np.ones((4, 2)), "y": np.array([0, 1, 1.5, 0])}, "label 2 is 1.5"),
        ({"x": np.ones((2, 2)), "y": np.array([0, 1])}, "0.2 of 2 samples"),
        ({"x": np.array([["a", "b"]]), "y": np.array([0])}, "samples must be real numbers"),
        ({"x": np.array([[None]]), "y": np.array([0])}, "cannot be read as arrays of numbers"),
    ],
)
def test_what_is_wrong_in_arrays_is_named(tmp_path, arrays, said):
    np.savez(tmp_path / "d.npz", **arrays)
    assert said in call("import", tmp_path / "d.npz", "-o", tmp_path / "d.h5", code=1)
    assert [path.name for path in tmp_path.iterdir()] == ["d.npz"]


def test_files_that_are_there_and_columns_that_are_not(tmp_path, samples):
    source, out = csv(tmp_path / "d.csv", *samples), tmp_path / "d.h5"
    out.write_text("mine")
    assert "is there already" in call("import", source, "-o", out, code=1)
    assert "is there already" in call("make", "-o", out, code=1)
    assert out.read_text() == "mine"
    assert "no column 'colour'" in call("import", source, "-o", out, "--force", "--label", "colour", code=1)
    call("import", source, "-o", out, "--force")
    assert "give the .npy file of their labels" in call("import", _npy(tmp_path), "-o", out, "--force", code=1)


def _npy(folder):
    np.save(folder / "x.npy", np.ones((2, 2)))
    return folder / "x.npy"


def test_what_is_made_is_looked_at_and_the_same_each_time(tmp_path):
    first, second = tmp_path / "a.h5", tmp_path / "b.h5"
    for path in (first, second):
        said = call("make", "-o", path, "--samples", "1000", "--features", "4", "--classes", "3")
        assert "train: 800 samples of [4]" in said
    assert call("check", first).replace("a.h5", "b.h5") == call("check", second)
    with h5py.File(first, "r+") as file:
        file["test/x"][2, 1] = np.nan
    assert "test/x[2, 1] is nan" in call("check", first, code=1)


def test_training_takes_tables_as_they_are(tmp_path, samples, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = csv(tmp_path / "d.csv", *samples)
    made = importing.cached(source)
    assert importing.cached(source) == made
    with Dataset(made) as found:
        assert found.sizes == {"train": 40, "test": 10}
    csv(source, samples[0] + 1, samples[1])
    assert importing.cached(source) != made
