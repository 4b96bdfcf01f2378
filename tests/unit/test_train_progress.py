"""What a person sees of a run on a terminal: a bar while it lasts, and the lines of its epochs."""

import io
import re

import pytest
from rich.console import Console

from hpcdist.train import progress
from hpcdist.train.log import Row

ERASE = "\x1b[2K"  # the line that the cursor is in


@pytest.fixture
def console(monkeypatch):
    monkeypatch.setattr(progress, "watched", lambda console: True)
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def row(step, test=None):
    return Row(step, 1, 0.5, 0.9, 0.1, 0.01, test_loss=test, test_accuracy=test)


def test_the_bar_goes_when_the_run_has_ended_and_the_lines_of_epochs_stay(console):
    display = progress.Display(console, total=30, done=0)
    display.show(row(14))
    display.show(row(15, test=0.25))
    display.close()
    said = console.file.getvalue()
    assert "15/30" in said
    assert ERASE in said[said.rindex("/30") :]
    assert re.search(r"epoch +1  step +15  loss 0\.5000  test loss 0\.2500  test accuracy 25\.00 %", said)
