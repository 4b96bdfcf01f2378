"""A simulated device for tests: what goes wrong on a GPU goes wrong here, too, and is seen.

Device memory is a file in memory that is mapped twice. The address that an array shows is closed to everyone (SIGSEGV
in this process, EFAULT in system calls); the device works through a second mapping that nobody is told of. With
GUARDED_AWARE=1 the shown address is open, too, as device memory is to a CUDA-aware MPI. Work is done late, by one
thread for each stream, after random delays (seeded by GUARDED_SEED), and what it will write is rubbish before it is
written. New and freed memory are rubbish. Arrays behave as CuPy's do, and refuse what CuPy's refuse.

    guarded.install()                             # hpcdist.device knows these arrays from now on
    x = guarded.put(np.arange(5.0))
    x += 1                                        # later, on the current stream
    guarded.slow(guarded.current(), seconds=0.1)  # and what comes after it later still
    x.get()                                       # waits for the current stream, and for no other
    guarded.peek(x)                               # what is in memory now
"""

from guarded.accelerator import SIMULATED, Simulated, install
from guarded.array import GuardedArray, empty, peek, pool_array, put, zeros
from guarded.memory import AWARE
from guarded.streams import DeviceFault, Event, Stream, current, slow, stream

__all__ = [
    "AWARE",
    "SIMULATED",
    "DeviceFault",
    "Event",
    "GuardedArray",
    "Simulated",
    "Stream",
    "current",
    "empty",
    "install",
    "peek",
    "pool_array",
    "put",
    "slow",
    "stream",
    "zeros",
]
