"""`python -m hpcdist`."""

from hpcdist.cli.main import main

if __name__ == "__main__":
    main(prog_name="python -m hpcdist")
