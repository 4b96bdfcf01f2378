"""The digits file, reading a part of it, and the order of the samples."""

from __future__ import annotations

import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from hpcdist.data import digits
from hpcdist.data.dataset import Dataset, write
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


def test_refuses_another_kind_of_file(tmp_path: Path) -> None:
    h5py.File(tmp_path / "other.h5", "w").close()
    with pytest.raises(ValueError, match="is not a data set"):
        Dataset(tmp_path / "other.h5")


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
