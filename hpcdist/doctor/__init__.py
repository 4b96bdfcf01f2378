"""The doctor: looks at a job's set-up under the job's own launcher and says what is wrong before it costs a day.

    srun --mpi=pmix hpcdist doctor --checkpoint-dir /scratch/me/checkpoints

A check is a function from the running `job.Job` to findings. What one rank can see alone it looks at inside
`Job.ask`, which hands everybody the answers of all; what is then concluded is a pure function of those answers,
so that all ranks conclude the same. A check that fails or hangs becomes a finding itself: see `job` and `limit`.

`finding` is what is found and how it is printed; `start` starts MPI; `launch`, `library`, `tolerance`, `cores`,
`memory`, `hdf5`, `gpu`, `storage` and `network` hold the checks; `examine` runs them; `command` is the front door.
"""
