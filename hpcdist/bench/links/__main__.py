"""`python -m hpcdist.bench.links` on every rank."""

from hpcdist.bench.links.program import main

main(prog_name="python -m hpcdist.bench.links")
