"""`python -m hpcdist.sweep.network` on every rank."""

from hpcdist.sweep.network.program import main

main(prog_name="python -m hpcdist.sweep.network")
