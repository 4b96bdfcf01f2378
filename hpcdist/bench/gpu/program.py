"""What every rank of the report runs: it takes its device, then starts MPI and measures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcdist.bench.gpu.options import Settings, settings
from hpcdist.sweep.command import device_or_why

if TYPE_CHECKING:
    from mpi4py import MPI


@click.command()
@settings
@click.option("--json", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file.")
def main(json: Path | None, **options: Any) -> None:
    """Measure all-reduce algorithms on device buffers; start all ranks on one machine.

    It exits with 1 if any element is wrong.
    """
    accelerator, no_device = device_or_why("cuda")  # chosen before MPI starts
    from hpcdist.bench.gpu.measurement import Measurement  # here, as they start MPI
    from hpcdist.mpi.collective_errors import agree
    from hpcdist.mpi.world import run_on_world

    def work(comm: MPI.Intracomm) -> int:
        agree(comm, accelerator is not None, f"nothing was measured: {no_device}")
        return Measurement(comm, accelerator, Settings(**options), json).run() if accelerator else 1

    run_on_world(work)


if __name__ == "__main__":
    main(prog_name="python -m hpcdist.bench.gpu.program")
