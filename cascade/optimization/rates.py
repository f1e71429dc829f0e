"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from cascade.config import Train


def learning_rate(step: int, train: Train, seconds: float = 0.0) -> float:
    """The rate of a step: linear warm-up times constant, halved at milestones, or half a cosine.

    The cosine falls with the share of the training that is done: of its steps or, where that is
    more, of its budget ``train.seconds``, of which ``seconds`` are used.
    """
    rate = train.lr * min(1.0, (step + 1) / max(1, train.warmup))
    if train.schedule == "halve":
        return rate * 0.5 ** sum(step >= milestone for milestone in train.milestones)
    if train.schedule == "cosine":
        done = step / max(1, train.steps)
        if train.seconds:
            done = min(1.0, max(done, seconds / train.seconds))
        return rate * 0.5 * (1 + math.cos(math.pi * done))
    return rate
