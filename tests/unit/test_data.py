"""The digits file, reading a part of it, and the order of the samples."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcdist.data import dataset, digits
from hpcdist.data.dataset import DataError, Dataset, write
from hpcdist.data.sampler import Sampler, part


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file in which sample i holds the number i."""
    x, y = np.arange(40, dtype=np.float32).reshape(20, 2), np.arange(20)
    with h5py.File(tmp_path / "numbers.h5", "w") as file:
        write(file, train=(x, y), test=(-x[:5], y[:5]), classes=20)
    return tmp_path / "numbers.h5"


def test_reads_in_the_order_asked_for(path: Path) -> None:
    with Dataset(path) as data:
        x, y = data.read("train", np.array([7, 3, 19, 0]))
        assert y.tolist() == [7, 3, 19, 0]
        assert x.tolist() == [[14, 15], [6, 7], [38, 39], [0, 1]]
        assert data.read("test", np.array([1]))[0].tolist() == [[-2, -3]]


def test_reads_nothing_if_asked_for_nothing(path: Path) -> None:
    with Dataset(path) as data:
        x, y = data.read("train", np.array([], int))
    assert x.shape == (0, 2)
    assert x.dtype == np.float32
    assert y.shape == (0,)


def changed(path: Path, **arrays: object) -> Path:
    """A data set of 80 and 320 samples of 8 numbers in 4 classes, but for these arrays; None leaves one out."""
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(400, 8)).astype(np.float32), np.arange(400) % 4
    made = {"train_x": x[80:], "train_y": y[80:], "test_x": x[:80], "test_y": y[:80], **arrays}
    with h5py.File(path / "data.h5", "w") as file:
        for name, values in made.items():
            if name == "classes":
                file.attrs["classes"] = values
            elif values is not None:
                file[name.replace("_", "/")] = values
    return path / "data.h5"


X, Y = np.ones((320, 8), np.float32), np.arange(320) % 4


def with_one(values: np.ndarray, at: tuple[int, ...] | int, value: float) -> np.ndarray:
    """A copy in which one element has this value."""
    values = values.copy()
    values[at] = value
    return values


FORMS = {
    "nothing": (dict.fromkeys(("train_x", "train_y", "test_x", "test_y")), "there is no array train/x"),
    "no labels to judge by": ({"test_y": None}, "there is no array test/y"),
    "columns": ({"train_y": Y[:, None]}, r"train/y is int64 \(320, 1\); labels must be integers in one row"),
    "floats": ({"train_y": Y.astype(float)}, r"train/y is float64 \(320,\); labels must be integers"),
    "booleans": ({"train_y": Y > 1}, "train/y is bool"),
    "one-hot": ({"test_y": np.eye(4, dtype=int)[Y[:80]]}, r"test/y is int64 \(80, 4\)"),
    "fewer labels": ({"train_y": Y[:-3]}, "train/x has 320 samples and train/y 317 labels"),
    "text": ({"train_x": X.astype("S4")}, "train/x is .*; samples must be real numbers"),
    "complex": ({"test_x": X[:80].astype(complex)}, "test/x is complex128"),
    "samples without axes": ({"train_x": X[:, 0]}, r"train/x is float32 \(320,\); samples must be real numbers"),
    "empty samples": ({"train_x": X[:, :0]}, r"train/x is float32 \(320, 0\)"),
    "an empty part": ({"test_x": X[:0], "test_y": Y[:0]}, "test has no samples"),
    "other samples": ({"test_x": X[:80, :7]}, r"of train/x has shape \(8,\), one of test/x \(7,\)"),
    "an empty array": ({"train_x": h5py.Empty("f4")}, "there is no array train/x"),
    "half a class": ({"classes": 2.5}, "the attribute classes is .*2.5"),
    "no class": ({"classes": 0}, "the attribute classes is .*0"),
    "classes in words": ({"classes": "four"}, "the attribute classes is 'four'"),
}


@pytest.mark.parametrize(("arrays", "said"), FORMS.values(), ids=FORMS)
def test_what_has_not_the_form_of_a_data_set_is_refused_when_it_is_opened(
    tmp_path: Path, arrays: dict, said: str
) -> None:
    path = changed(tmp_path, **arrays)
    with pytest.raises(DataError, match=said) as raised:
        Dataset(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


CONTENTS = {
    "a negative label": ({"train_y": with_one(Y, 120, -1)}, r"train/y\[120\] is -1; labels go from 0$"),
    "a label too large": ({"train_y": with_one(Y, 7, 4), "classes": 4}, r"train/y\[7\] is 4; labels go from 0 to 3"),
    "labels from 1": ({"test_y": Y[:80] + 1, "classes": 4}, r"test/y\[3\] is 4; labels go from 0 to 3"),
    "NaN": ({"train_x": with_one(X, (5, 2), np.nan)}, r"train/x\[5, 2\] is nan; all samples must be finite"),
    "infinity": ({"test_x": with_one(X[:80], (79, 0), -np.inf)}, r"test/x\[79, 0\] is -inf"),
    "NaN in float16": ({"train_x": with_one(X.astype(np.float16), (0, 7), np.nan)}, r"train/x\[0, 7\] is nan"),
}


@pytest.mark.parametrize("block", [1, 100, 1 << 24])
@pytest.mark.parametrize(("arrays", "said"), CONTENTS.values(), ids=CONTENTS)
def test_what_cannot_be_learnt_from_is_named_with_part_sample_and_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict, said: str, block: int
) -> None:
    monkeypatch.setattr(dataset, "BLOCK", block)
    path = changed(tmp_path, **arrays)
    with Dataset(path) as data, pytest.raises(DataError, match=said) as raised:
        data.look_at_all()
    assert str(raised.value).startswith(f"{path}: ")


def digest_of(path: Path) -> str:
    with Dataset(path) as data:
        data.look_at_all()
        return data.digest


def test_the_digest_is_of_contents_types_and_shapes_and_of_nothing_else(tmp_path: Path) -> None:
    same = digest_of(changed(tmp_path))
    assert same == digest_of(changed(tmp_path))
    others = [
        {"train_x": with_one(X, (319, 7), 2)},
        {"train_y": with_one(Y, 319, 0)},
        {"train_x": X.astype(np.float64)},
        {"train_x": X.reshape(320, 2, 4), "test_x": X[:80].reshape(80, 2, 4)},
        {"classes": 5},
    ]
    first = digest_of(changed(tmp_path, train_x=X, test_x=X[:80]))
    found = {digest_of(changed(tmp_path, **{"train_x": X, "test_x": X[:80], **other})) for other in others}
    assert len(found | {first, same}) == len(others) + 2


def test_any_file_with_the_four_arrays_will_do_and_labels_say_how_many_classes(tmp_path: Path) -> None:
    for kind in (np.uint8, np.int16, np.float64, np.dtype(">f4")):
        path = changed(tmp_path, train_x=X.astype(kind), test_x=X[:80].astype(kind), train_y=Y.astype(np.uint8))
        with Dataset(path) as data:
            assert data.classes == 0
            data.look_at_all()
            assert data.classes == 4
            assert data.read("train", np.array([5, 1]))[1].tolist() == [1, 1]


def test_packed_samples_are_unpacked_once(tmp_path: Path) -> None:
    path = changed(tmp_path, train_x=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("train/x", data=X, compression="gzip", chunks=(64, 8))
    with Dataset(path) as data:
        assert data.notes == []
        assert data._file.id.get_access_plist().get_cache()[2] >= X.nbytes
        assert np.array_equal(data.read("train", np.array([319, 0]))[0], X[[319, 0]])


def test_packed_samples_that_do_not_fit_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "CACHE", 1000)
    path = changed(tmp_path, train_x=None)
    with h5py.File(path, "a") as file:
        file.create_dataset("train/x", data=X, compression="gzip", chunks=(64, 8))
    with Dataset(path) as data:
        (note,) = data.notes
    assert "train/x is packed (gzip) in chunks of 64 samples" in note
    assert "h5repack" in note


def test_a_file_that_is_not_hdf5_is_named(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(OSError, match="binary cannot be read as an HDF5 file"):
        Dataset(tmp_path / "binary")


def test_digits_are_converted_once_and_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = digits.cached()
    before = path.stat().st_mtime_ns, path.read_bytes()
    assert digits.cached() == path
    assert path.stat().st_mtime_ns == before[0]
    digits.convert(path)
    assert path.read_bytes() == before[1]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_digits_are_all_there(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    digits.convert(tmp_path / "digits.h5")
    images, labels = digits.load()
    with Dataset(tmp_path / "digits.h5") as data:
        parts = [data.read(split, np.arange(data.sizes[split])) for split in ("train", "test")]
        assert (data.sizes, data.sample_shape, data.classes) == ({"train": 1438, "test": 359}, (8, 8), 10)
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert (x.dtype, y.dtype, x.min(), x.max()) == (np.float32, np.int64, 0, 1)
    found = sorted(zip(map(bytes, (16 * x).astype(np.uint8)), y, strict=True))
    assert found == sorted(zip(map(bytes, images.astype(np.uint8)), labels, strict=True))


def test_without_scikit_learn_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hpcdist\[digits\]'"):
        digits.convert(tmp_path / "digits.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [1, 2, 3, 7, 20])
def test_parts_are_disjoint_complete_and_near_equal(size: int) -> None:
    pieces = [range(10)[part(10, rank, size)] for rank in range(size)]
    assert [item for piece in pieces for item in piece] == list(range(10))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1


def test_an_epoch_takes_every_sample_once_and_epochs_differ() -> None:
    sampler = Sampler(count=10, batch=4, seed=3)
    assert sampler.steps_per_epoch == 3
    epochs = [np.concatenate([sampler.indices(3 * epoch + place) for place in range(3)]) for epoch in (0, 1)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()
    assert len(sampler.indices(2)) == 2


def test_order_and_random_state_follow_seed_and_epoch() -> None:
    sampler, same, other = Sampler(100, 10, 3), Sampler(100, 10, 3), Sampler(100, 10, 4)
    assert sampler.indices(12).tolist() == same.indices(12).tolist() != other.indices(12).tolist()
    assert sampler.position(12) == (1, 2)
    assert sampler.random_state(12) == same.random_state(19)
    digests = {item.random_state(step)["permutation"] for item in (sampler, other) for step in (9, 10)}
    assert len(digests) == 4
