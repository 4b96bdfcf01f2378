"""`python -m hpcdist.checkpoint.crash`."""

from hpcdist.checkpoint.crash.program import main

main(prog_name="python -m hpcdist.checkpoint.crash")
