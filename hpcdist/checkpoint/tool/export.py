"""Arrays of a checkpoint as one plain file, for programs that know nothing of checkpoints."""

from __future__ import annotations

import errno
import importlib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hpcdist.checkpoint import hdf5
from hpcdist.checkpoint.layout import rows
from hpcdist.checkpoint.reader import Checkpoint, Contents
from hpcdist.checkpoint.tool.progress import Advance
from hpcdist.checkpoint.tool.rows import entry_nbytes, read_rows, stand_in
from hpcdist.util.atomic_files import replacing


class Arrays(Mapping[str, NDArray]):
    """Some arrays of a checkpoint, each read and checked when it is asked for, and not kept."""

    def __init__(self, contents: Contents, names: list[str], advance: Advance) -> None:
        self._contents, self._names, self._advance = contents, names, advance

    def __getitem__(self, name: str) -> NDArray:
        entry = self._contents.entries[name]
        values = read_rows(self._contents, name, 0, rows(entry))
        self._advance(values.nbytes)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def stand_ins(self) -> dict[str, NDArray]:
        """Arrays of the same shapes and dtypes, without memory."""
        return {name: stand_in(self._contents.entries[name]) for name in self._names}


def matching(checkpoint: Checkpoint, pattern: str) -> list[str]:
    """Names of the arrays that fit a shell pattern, in which * stands for slashes, too.

    Raises:
        ValueError: there is none.
    """
    names = list(checkpoint.manifest.arrays)
    found = [name for name in names if fnmatchcase(name, pattern)]
    if not found:
        raise ValueError(f"no array of {checkpoint.path} fits --only {pattern!r}; there are {', '.join(names)}")
    return found


def nbytes_of(checkpoint: Checkpoint, names: list[str]) -> int:
    """Bytes of these arrays."""
    return sum(entry_nbytes(checkpoint.manifest.arrays[name]) for name in names)


def export(checkpoint: Checkpoint, names: list[str], file: Path, advance: Advance) -> None:
    """Write these arrays into `file`, in the form that its ending says, atomically and durably.

    Raises:
        DamagedCheckpoint: a piece of them is damaged; nothing was written.
        OSError: the file cannot be written.
    """
    with Contents(checkpoint) as contents, replacing(file) as draft:
        try:
            WRITERS[file.suffix](draft, Arrays(contents, names, advance))
        except OSError as error:
            error.filename = error.filename or str(file)  # which Python leaves out if the disk becomes full
            raise


def _write_hdf5(draft: Path, arrays: Arrays) -> None:
    """One array is in memory at a time."""
    hdf5.write(draft, hdf5.lay_out(arrays.stand_ins()), arrays)


def _write_npz(draft: Path, arrays: Arrays) -> None:
    """As numpy.savez does it, which wants all arrays at once, and none of them named "file"."""
    with zipfile.ZipFile(draft, "x") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, values, allow_pickle=False)


def _write_torch(draft: Path, arrays: Arrays) -> None:
    """A dictionary of tensors, as a model's load_state_dict takes it; all arrays are in memory at once."""
    torch = importlib.import_module("torch")
    native = {name: values.astype(values.dtype.newbyteorder("="), copy=False) for name, values in arrays.items()}
    tensors = {name: torch.from_numpy(values) for name, values in native.items()}
    try:
        torch.save(tensors, draft)
    except RuntimeError as error:  # as which torch reports a full disk
        raise OSError(errno.EIO, f"torch could not write it: {error}") from error


def torch_missing() -> str | None:
    """Why .pt files cannot be written here, if they cannot."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        return f"writing .pt needs torch, which cannot be imported here ({error}); install it, or write .h5 or .npz"
    return None


WRITERS: dict[str, Callable[[Path, Arrays], None]] = {".h5": _write_hdf5, ".npz": _write_npz, ".pt": _write_torch}
