"""Tuning files of MPI libraries, written from a sweep of their own algorithms: one module per format.

`table` finds the fastest algorithm for each range of sizes, a format writes that down, `command` is the front door.
"""
