"""What checkpoints cost a training run.

`report` is the command and its tables, `ranks` what the ranks of its jobs do.
"""
