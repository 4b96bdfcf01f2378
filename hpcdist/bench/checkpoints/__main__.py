"""`python -m hpcdist.bench.checkpoints` on every rank."""

from hpcdist.bench.checkpoints.program import main

main(prog_name="python -m hpcdist.bench.checkpoints")
