"""On every rank: save the state to DIRECTORY after STEP steps in LAYOUT."""

import sys
from pathlib import Path

from state import state

from hpcdist.checkpoint import Store, collective, layout
from hpcdist.mpi.world import world

layout.PIECE = 1 << 16  # bytes: several transfers for an array
collective.ALIGNMENT = 1 << 12  # and enough for every rank to have rows


def save(directory, step, how):
    comm = world()
    writers = comm.size if how == "shards" else 0
    with Store(comm, Path(directory), layout=how, writers=writers) as store:
        store.save(int(step), state(), {"sampler": 3})


if __name__ == "__main__":
    save(*sys.argv[1:])
