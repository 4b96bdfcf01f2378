"""Learning-rate policies: pure functions of the step, so that there is no state to save or to get wrong."""

from __future__ import annotations

import math
from collections.abc import Callable


def constant(progress: float) -> float:
    """Always 1."""
    return 1.0


def cosine(progress: float) -> float:
    """From 1 down to 0 along half a cosine; I. Loshchilov and F. Hutter, "SGDR", ICLR 2017, no restarts."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def steps(progress: float) -> float:
    """A tenth from one half on, a hundredth from three quarters on, much as K. He et al., CVPR 2016."""
    return 0.1 ** ((progress >= 0.5) + (progress >= 0.75))


POLICIES: dict[str, Callable[[float], float]] = {"constant": constant, "cosine": cosine, "steps": steps}


def learning_rate(policy: str, step: int, *, peak: float, warmup: int, total: int) -> float:
    """Learning rate of `step`: linear warm-up to `peak`, then the policy.

    Args:
        policy: A name in `POLICIES`, whose function maps progress after the warm-up, 0 .. 1, to a factor.
        step: Steps done before this one.
        peak: The largest learning rate.
        warmup: Steps of the warm-up; the first of them already learns (P. Goyal et al., "Accurate, Large
            Minibatch SGD", 2017).
        total: Steps of the whole run, warm-up included.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return peak * POLICIES[policy](min(1.0, progress))
