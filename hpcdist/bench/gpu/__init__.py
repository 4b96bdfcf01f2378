"""All-reduce of device buffers on one machine's GPUs, beside what the GPU itself, MPI and NCCL do, as a report.

    python -m hpcdist.bench.gpu --out results/gpu/NAME

`__main__` starts the ranks and puts the report together; `program` is what each of them runs. `bench` holds the cases,
`nccl` and `mps` ask what else there is, `record` keeps results, `table` shows them.
"""
