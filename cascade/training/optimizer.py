"""The optimiser, its learning rate as a function of the step, and the average of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cascade.config import Train


def optimiser(module: nn.Module, train: Train) -> torch.optim.Optimizer:
    """Adamax or Adam over a module's parameters."""
    kind = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam}[train.optimizer]
    return kind(
        module.parameters(),
        lr=train.lr,
        betas=tuple(train.betas),
        weight_decay=train.weight_decay,
        foreach=True,
    )


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


def averaged(module: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of parameters, with copies of the buffers.

    The decay after n updates is min(decay, (1 + n)/(10 + n)), so early weights are soon forgotten.
    """

    def average(kept: Any, new: Any, count: Tensor | int) -> None:
        n = int(count)
        torch._foreach_lerp_(kept, new, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(module, multi_avg_fn=average)
