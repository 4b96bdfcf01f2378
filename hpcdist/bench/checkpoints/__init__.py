"""Saving and restoring a state beside the simple ways, torch's, and the limit of the file system, in one run.

All ways save the same random bytes into the same folder, round by round, in an order that is rotated, so that a drift
of the machine meets them all.

`report` is the command, its tables and its figure, `ranks` what the ranks of its jobs do: `state` is what is saved,
`ways` the ways to save it, `raw` the limit, `peer` and `dcp` torch on the other side of a pipe, `cache` the page cache,
`room` what fits, `rounds` takes the samples.
"""
