"""Saving and restoring a state beside the simple ways, torch's, and the limit of the file system, in one run.

    hpcdist run -n 4 -- python -m hpcdist.bench.checkpoints --scratch /scratch/me
    python -m hpcdist.bench.checkpoints.report --out results/checkpoints

The first measures on the ranks it is started on; the second starts it for several numbers of ranks on this machine and
writes one report. All ways save the same random bytes into the same folder, round by round, in an order that is
rotated, so that a drift of the machine meets them all.

`state` is what is saved, `ways` the ways to save it, `raw` the limit, `peer` and `dcp` torch on the other side of a
pipe, `cache` the page cache, `room` what fits, `rounds` takes the samples, `program` is one run on all ranks, `record`
holds results, `table` and `figure` show them, `report` starts the runs, `options` are those of both command lines.
"""
