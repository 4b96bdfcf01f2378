"""The sweep: measure and check every all-reduce algorithm over sizes and types, beside the MPI library's own.

`inputs` makes the numbers, `measure` runs and times, `library` has the MPI library run one of its own algorithms,
`model` fits what a message costs here, `record` holds a result and writes files, `report` and `figure` show them,
`deviation` finds rows that are slower than their model, `tune` and `export` turn results into tables for "auto" and for
MPI libraries, `command` is the front door.
"""
