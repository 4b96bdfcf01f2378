"""A device of kernels that is this machine's processor: the same .cu sources, compiled by g++ with cuda_on_host.h."""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np

from hpcdist.kernels.device import FOLDER, THREADS, new_nan_sign

COMPILER = shutil.which("g++")
BLOCKS = 3  # at most, so that every loop has to stride
PROBLEMS = {-1: "takes another number of arguments", -2: "has a barrier that some threads do not reach"}
# Undefined behaviour, a misaligned load for one, ends the process with a message; -fno-strict-aliasing as in nvcc.
FLAGS = [
    "-std=c++17",
    "-O1",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fsanitize=undefined",
    "-fno-sanitize-recover=all",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
]


class Launch(ctypes.Structure):
    _fields_ = (
        ("blocks", ctypes.c_uint),
        ("threads", ctypes.c_uint),
        ("seed", ctypes.c_uint),
        ("count", ctypes.c_int),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("sizes", ctypes.POINTER(ctypes.c_size_t)),
    )


class Host:
    """Runs kernels on NumPy arrays; `seed` is the order in which blocks and threads take turns."""

    def __init__(self, folder, kernels, sources=FOLDER):
        """`kernels` names the kernels of each file in `sources`; what is compiled stays in `folder`, for others too."""
        self.folder, self.kernels, self.sources, self.seed = Path(folder), kernels, Path(sources), 0
        self._libraries = {}

    def address(self, name, array):
        if type(array) is not np.ndarray:
            raise TypeError(f"{name} is a {type(array).__name__}")
        return array.ctypes.data

    def put(self, array):
        return array.copy()

    def empty(self, count, dtype):
        return np.frombuffer(b"\xa5" * (count * np.dtype(dtype).itemsize), dtype).copy()  # nothing is zero by chance

    def zeros(self, count, dtype):
        return np.zeros(count, dtype)

    def launch(self, source, kernel, blocks, arguments):
        values = [np.asarray(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        sizes = (ctypes.c_size_t * len(values))(*(value.itemsize for value in values))
        launch = Launch(min(blocks, BLOCKS), THREADS, self.seed, len(values), pointers, sizes)
        self.seed += 1
        status = self.library(source)[f"launch_{kernel}"](ctypes.byref(launch))
        if status:
            size = sizes[status - 1] if status > 0 else 0
            problem = PROBLEMS.get(status, f"takes an argument {status} of another size than {size} bytes")
            raise RuntimeError(f"{kernel} {problem}")

    def library(self, source):
        if source not in self._libraries:
            self._libraries[source] = ctypes.CDLL(str(self.compiled(source)))
        return self._libraries[source]

    def compiled(self, source):
        """The kernels of a source as a shared library, each with a launcher."""
        library = self.folder / f"{source}.so"
        if library.exists():
            return library
        unit, made = (self.folder / f"{source}.{os.getpid()}.{kind}" for kind in ("cpp", "so"))
        launchers = "".join(f"LAUNCHER({kernel})\n" for kernel in self.kernels[source])
        header = Path(__file__).with_suffix(".h")
        unit.write_text(f'#include "{header}"\n#include "{self.sources / source}.cu"\n{launchers}')
        command = [COMPILER, *FLAGS, f"-I{FOLDER}", f"-DNEW_NAN_SIGN={new_nan_sign()}u", unit, "-o", made]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"g++ does not compile {source}.cu: {done.stderr}")
        return made.rename(library)
