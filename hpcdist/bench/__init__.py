"""All-reduces of this package beside those of the MPI libraries and of Gloo: one report of ratios.

    make bench
    python -m hpcdist.bench node|algorithms|halves|addresses|network|table
    python -m hpcdist.bench algorithms --hosts 5,6,7,8
    python -m hpcdist.bench commits --old COMMIT

Every figure is a ratio, since machines are noisy. What runs in one process is paired sample by sample, on the same
buffers; across libraries whole jobs are interleaved, in an order that is rotated and reversed, and the median of the
rounds' ratios counts.

`peers` are the libraries, each in an environment of its own; `task` is what a job is told, `ranks` what the ranks of
an MPI do with it, `values`, `cases` and `links` its parts, `gloo` the same for a Python that has torch; `start` starts
jobs on this machine or on virtual hosts, as `processes`, and `rounds` interleaves them; `node`, `algorithms`, `halves`,
`addresses` and `network` are the parts of the report, and `commits`, which sets two commits of ours beside each other
with the ranks of `commit_job`; `tuning` makes the tables that "auto" reads, and judges them; `record` holds results,
`ratios` compares them, `compare` says what is told of a size, and `table`, `by_algorithm`, `cells` and `figure` tell
it; `settings` and `command` are the front.
"""
