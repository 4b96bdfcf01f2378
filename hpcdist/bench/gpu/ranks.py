"""What every rank runs: it takes its device, then starts MPI and measures."""

from __future__ import annotations

from hpcdist.bench.gpu.report import Part
from hpcdist.sweep.command import device_or_why


def main() -> None:
    """As `findings.main`."""
    accelerator, no_device = device_or_why("cuda")  # chosen before MPI starts
    from hpcdist.bench import findings
    from hpcdist.bench.gpu.measurement import work

    findings.main(work, Part, accelerator, no_device)


if __name__ == "__main__":
    main()
