"""Kinds of devices by name, for commands that are told on which to compute."""

from __future__ import annotations

from collections.abc import Callable

from hpcdist.device.accelerator import Accelerator
from hpcdist.device.host import CPU, Host

Device = Accelerator | Host


def _cuda() -> Accelerator:
    from hpcdist.device.local import choose  # here, since CuPy is imported only by those who ask for it

    return choose()


KINDS: dict[str, Callable[[], Device]] = {CPU: Host, "cuda": _cuda}  # name -> this rank's device of that kind


def by_name(kind: str) -> Device:
    """This rank's device of a kind.

    Raises:
        ValueError: there is no such kind.
        RuntimeError: this rank has no such device, saying why.
    """
    if kind not in KINDS:
        raise ValueError(f"there is no kind of device {kind!r}; choose from {', '.join(KINDS)}")
    return KINDS[kind]()
