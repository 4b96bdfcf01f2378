"""`python -m hpcdist.bench.crash`."""

from hpcdist.bench.crash.program import main

main(prog_name="python -m hpcdist.bench.crash")
