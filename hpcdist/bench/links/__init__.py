"""All-reduce algorithms as a share of the rate of the links, beside raw TCP and the MPI library, in one run.

    hpcdist cluster report --out results/network

makes virtual clusters and starts this on their ranks; on hosts with links of a known rate it is started by hand, with
one rank per host:

    srun --mpi=pmix --ntasks-per-node=1 python -m hpcdist.bench.links --rate 10000000000 --json network.json

`raw` is TCP without MPI, `measure` takes the samples, `program` is one run on all ranks, `record` holds results,
`table` and `figure` show them, `options` are those of the command line.
"""
