"""A model of one's own: each rank takes its part of the samples, and all of them the average of the gradients.

hpcdist run -n 4 -- python jobscripts/own_model.py
"""

import numpy as np
from mpi4py import MPI

import hpcdist

SAMPLES, FEATURES, STEPS, RATE = 4096, 64, 200, 0.5

comm = MPI.COMM_WORLD
rng = np.random.default_rng(1)  # the same on all ranks
truth = rng.standard_normal(FEATURES)
x = rng.standard_normal((SAMPLES, FEATURES))[comm.rank :: comm.size]
y = x @ truth + 0.1 * rng.standard_normal(len(x))

weights = np.zeros(FEATURES)
gradient = hpcdist.empty(FEATURES, weights.dtype, comm)  # ranks of a node add it up where it lies
average = hpcdist.plan(comm, gradient, op="avg")
for _ in range(STEPS):
    error = x @ weights - y
    np.matmul(x.T, error / len(x), out=gradient)
    average()
    weights -= RATE * gradient

loss = comm.allreduce(float(np.mean(error**2))) / comm.size
if comm.rank == 0:
    print(
        f"loss {loss:.4f}, error of the weights {np.abs(weights - truth).max():.4f}, gradients by {average.algorithm}"
    )
