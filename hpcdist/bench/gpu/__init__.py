"""All-reduce of device buffers on one machine's GPUs, beside what the GPU itself, MPI and NCCL do.

`report` is the command and its tables, `ranks` what the ranks of its jobs do, which take their device before MPI
starts: `measurement` goes through the sizes, `bench` holds the cases, `nccl` and `mps` ask what else there is.
"""
