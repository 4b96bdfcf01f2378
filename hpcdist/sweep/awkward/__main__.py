"""`python -m hpcdist.sweep.awkward` on every rank."""

from hpcdist.sweep.awkward.measure import main

main(prog_name="python -m hpcdist.sweep.awkward")
