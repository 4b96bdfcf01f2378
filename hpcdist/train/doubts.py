"""Settings that have no effect, or another than it seems: each is said, with its numbers, before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpcdist.optim.policy import learning_rate
from hpcdist.train.config import AUTO, FREQUENCIES, Config

JUMP = 1.5  # times the learning rate before, or over it, above which a resumed run is told of the change


def doubts(config: Config, total: int, samples: int, messages: bool = True) -> Iterator[str]:
    """What is odd about the settings.

    Args:
        config: The settings.
        total: Steps of the whole run.
        samples: Of the training set.
        messages: Whether gradients travel in messages.
    """
    if config.segment != AUTO and not messages:
        yield f"--segment {config.segment} has no effect, as no messages are sent: the ranks of a node share memory"
    if config.warmup >= total:
        most = rate_at(config, total - 1, total)
        yield (
            f"--warmup {config.warmup}, but the run has {total} steps: the learning rate ends at {most:.4g} and never "
            f"comes to --learning-rate {config.learning_rate:g}, nor to --policy {config.policy}"
        )
    if config.batch > samples:
        yield f"--batch {config.batch}, but the training set has {samples} samples: each step takes all {samples}"
    if config.selection and config.algorithm != AUTO:
        yield f"--selection {config.selection} has no effect, as --algorithm {config.algorithm} was asked for"
    if config.checkpoint_compression != "none" and not any(getattr(config, name) for name in FREQUENCIES):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in FREQUENCIES)
        yield (
            f"--checkpoint-compression {config.checkpoint_compression}, but no checkpoint is written unless the run is "
            f"asked to stop; see {flags}"
        )


def rate_at(config: Config, step: int, total: int) -> float:
    """The learning rate of a step, which counts from 0."""
    return learning_rate(config.policy, step, peak=config.learning_rate, warmup=config.warmup, total=total)


def jump(config: Config, stored: dict[str, Any], step: int, steps_per_epoch: int) -> Iterator[str]:
    """Whether the learning rate jumps where a run goes on.

    Args:
        config: The settings now.
        stored: Those of the checkpoint.
        step: Steps done.
        steps_per_epoch: As now.
    """
    before = Config.after(stored, {})
    then, now = (rate_at(each, step, each.epochs * steps_per_epoch) for each in (before, config))
    if step < before.epochs * steps_per_epoch and not 1 / JUMP <= now / max(then, 1e-300) <= JUMP:
        yield (
            f"the learning rate of step {step + 1} is {now:.4g}, and would have been {then:.4g} with the settings of "
            f"the checkpoint: it follows from --epochs ({before.epochs} -> {config.epochs}), --learning-rate, --policy "
            "and --warmup"
        )
