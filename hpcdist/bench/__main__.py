"""`python -m hpcdist.bench`."""

from hpcdist.bench.command import main

if __name__ == "__main__":
    main(prog_name="python -m hpcdist.bench")
