"""Synchronous data-parallel training. Read `loop` first: it is the whole of it; the other files serve it."""
