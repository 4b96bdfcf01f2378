"""The average of an array over all ranks, by an algorithm of one's choice.

hpcdist run -n 4 -- python jobscripts/average.py
srun --mpi=pmix python jobscripts/average.py
"""

import numpy as np
from mpi4py import MPI

import hpcdist

comm = MPI.COMM_WORLD
x = np.arange(6.0) + 100 * comm.rank  # every rank its own numbers
plan = hpcdist.plan(comm, x, algorithm="ring", op="avg")  # bound once ...
plan()  # ... run as often as you like
if comm.rank == 0:
    print(x, "by", plan.schedule.name, "in", len(plan.schedule.steps), "steps")
