"""How much of an all-reduce is hidden behind its caller's own work, by who goes on with it meanwhile.

`report` is the command and its tables, `ranks` what the ranks of its jobs do.
"""
