"""The figure of a run: loss and accuracy over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hpcdist.train.log import Row
from hpcdist.util.atomic_files import replacing


def draw(rows: Sequence[Row], path: Path, *, title: str, steps_per_epoch: int) -> None:
    """Draw the log `rows` to the file `path`, whose suffix chooses the format."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display
    figure.suptitle(title, parse_math=False)  # a path may hold a $
    losses, accuracies = figure.subplots(1, 2)
    epochs = [row.step / steps_per_epoch for row in rows]
    tested = [row for row in rows if row.test_loss is not None]
    at = [row.step / steps_per_epoch for row in tested]

    losses.plot(epochs, [row.loss for row in rows], linewidth=0.7, label="batch")
    losses.plot(at, [row.test_loss for row in tested], "o-", label="test set")
    losses.set(xlabel="epoch", ylabel="loss [nats]", yscale="log")
    accuracies.plot(epochs, [100 * row.accuracy for row in rows], linewidth=0.7, label="batch")
    accuracies.plot(at, [100 * (row.test_accuracy or 0) for row in tested], "o-", label="test set")
    accuracies.set(xlabel="epoch", ylabel="accuracy [%]", ylim=(None, 100.5))
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.legend()
    with replacing(path) as draft, rc_context({"text.usetex": False}):  # whatever the user's matplotlibrc wants
        figure.savefig(draft, dpi=150)
