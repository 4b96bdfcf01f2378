"""Where test cases have their buffers, so that the same cases are for host memory and for devices."""

import numpy as np

from hpcdist.device import awareness, paths


class HostMemory:
    """NumPy arrays."""

    path = paths.HOST

    def put(self, values):
        """A buffer with a copy of some values."""
        return values.copy()

    def get(self, buffer):
        """What is in a buffer, as a NumPy array."""
        return buffer

    def fill(self, buffer, values):
        """Give a buffer other values, as a user's own kernel would."""
        buffer[...] = values

    def zeros(self, count, dtype="float64"):
        """A buffer of zeros."""
        return self.put(np.zeros(count, dtype))


class DeviceMemory(HostMemory):
    """Arrays of a device, moved by one of the paths. Their values come late: from work in the current stream."""

    def __init__(self, accelerator, path, pooled):
        """`pooled`: makes an array, from a count and a dtype, that other processes cannot open."""
        self.accelerator, self.path, self.pooled = accelerator, path, pooled

    def put(self, values):
        buffer = self.accelerator.put(np.zeros_like(values))
        self.fill(buffer, values)
        return buffer

    def get(self, buffer):
        return self.accelerator.get(buffer).view(self.accelerator.dtype_of(buffer))

    def fill(self, buffer, values):
        buffer[...] = self.accelerator.put(values)


def on_path(accelerator, path, pooled, monkeypatch):
    """Memory of a device, by one path for all calls of a test."""
    monkeypatch.setenv(paths.ENVIRONMENT, path)
    monkeypatch.setenv(awareness.ENVIRONMENT, str(int(path == paths.AWARE)))
    return DeviceMemory(accelerator, path, pooled)
