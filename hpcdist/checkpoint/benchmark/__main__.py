"""`python -m hpcdist.checkpoint.benchmark` on every rank."""

from hpcdist.checkpoint.benchmark.program import main

main(prog_name="python -m hpcdist.checkpoint.benchmark")
