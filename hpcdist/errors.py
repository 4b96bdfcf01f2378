"""The errors a caller may want to tell apart; every other bad argument is a ValueError or TypeError."""

from __future__ import annotations


class ScheduleError(ValueError):
    """A schedule breaks its form or its contract; the text points at the guilty step."""


class AgreedError(RuntimeError):
    """An error that every rank of a communicator raises alike, naming the ranks that met it."""


class ArgumentError(AgreedError, ValueError):
    """Some ranks passed an argument that cannot be used, or ranks passed arguments that do not fit together."""


class LaunchError(RuntimeError):
    """The processes were started by a launcher that does not belong to the MPI library in use."""
