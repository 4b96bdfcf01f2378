"""Partner copies of a run: made at its start, and looked at for a state that is newer than the newest checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpi4py import MPI

from hpcdist.checkpoint import Fence
from hpcdist.checkpoint.history import given_up, history_of
from hpcdist.checkpoint.partner import PartnerCopies, key_of
from hpcdist.mpi.collective_errors import on_root
from hpcdist.train import resume
from hpcdist.train.config import AUTO, Config


def open_copies(comm: MPI.Intracomm, config: Config, fence: Fence) -> PartnerCopies | None:
    """The copies that the settings ask for, if any. Collective."""
    if not config.partner_every:
        return None
    folder, directory = Path(config.partner_dir), config.checkpoints
    before, history = on_root(comm, lambda: history_of(fence, anew=config.resume != AUTO))
    if before not in ("", history):  # nobody will ask for those again
        abandoned = PartnerCopies(comm, key_of(directory, before), folder)
        abandoned.forget()
        abandoned.close()
    return PartnerCopies(comm, key_of(directory, history), folder, token=fence.token)


def newest_start(
    comm: MPI.Intracomm, settings: dict[str, Any], start: resume.Start, fence: Fence, copies: PartnerCopies | None
) -> resume.Start:
    """The start, from the copies if what they hold is newer than the newest checkpoint. Collective."""
    if copies is None:
        return start
    if copies.note:
        start.notes.append(f"partner copies: {copies.note}")
    found = copies.newest() if start.config.resume == AUTO else None
    start.notes.extend(f"partner copies: {note}" for note in copies.notes)
    if found is None or (start.checkpoint and found.step <= start.checkpoint.step):
        return start
    if on_root(comm, lambda: given_up(fence, found.manifest.token, found.step)):
        start.notes.append(f"partner copies of step {found.step}: a later start went another way; not taken")
        return start
    return on_root(comm, lambda: resume.go_on(settings, found, start.notes))
