"""The average of the weights over training."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """An exponential moving average of parameters, with copies of the buffers.

    The decay after n updates is min(decay, (1 + n)/(10 + n)), so early weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__(module)
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the parameters in, in one operator, not one for each as `AveragedModel` does."""
        n, kept = int(self.n_averaged), self.module
        decay = min(self.decay, (1 + n) / (10 + n)) if n else 0.0
        torch._foreach_lerp_(list(kept.parameters()), list(model.parameters()), 1 - decay)
        if buffers := list(model.buffers()):
            torch._foreach_copy_(list(kept.buffers()), buffers)
        self.n_averaged += 1


def averaged(module: nn.Module, decay: float) -> Average:
    """The average of a module's weights, to begin with."""
    return Average(module, decay)
