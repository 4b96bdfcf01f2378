"""Runs programs: bound to buffers once, then started, tested and waited for any number of times."""
