"""`python -m hpcdist.bench.awkward` on every rank."""

from hpcdist.bench.awkward.measure import main

main(prog_name="python -m hpcdist.bench.awkward")
