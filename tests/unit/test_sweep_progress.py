"""Progress is for people at a terminal."""

import io
import sys

import pytest

from hpcdist.mpi.launcher import TERMINAL
from hpcdist.util.display import Progress


class Stream(io.StringIO):
    """Stderr that is a terminal or not."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("rank", "terminal", "behind", "shown"),
    [
        (0, True, "0", "\r\x1b[K[1/9] 8 B, 0 s so far\r\x1b[K"),
        (0, False, "1", "[1/9] 8 B, 0 s so far\n"),
        (0, False, "0", ""),
        (1, True, "1", ""),
    ],
)
def test_it_is_said_by_rank_0_to_a_terminal_only(rank, terminal, behind, shown, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Stream(terminal))
    monkeypatch.setattr("hpcdist.util.display.monotonic", lambda: 5.0)
    monkeypatch.setenv(TERMINAL, behind)
    with Progress(rank, 9) as progress:
        progress.show(0, "8 B")
    assert sys.stderr.getvalue() == shown
