"""The sweep: measure and check every all-reduce algorithm over sizes and types, beside the MPI library's own.

`inputs` makes the numbers, `measure` runs and times, `model` fits what a message costs here, `record` holds a
result and writes files, `report` and `figure` show them, `command` is the front door.
"""
