"""The nets inside couplings and injectors: not invertible, and apart from the algebra."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.norm import NormedConv


class Net(nn.Module):
    """A net that a backward pass runs again if ``recompute``: only its inputs are kept."""

    recompute = False

    def __call__(self, *inputs: Tensor | None) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            run = super().__call__
            return checkpoint(run, *inputs, use_reentrant=False, preserve_rng_state=False)
        return super().__call__(*inputs)


class GainedConv(nn.Module):
    """A 3×3 convolution that starts at zero, with a learned gain exp(3·g) per channel (Glow)."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups)
        self.gain = nn.Parameter(torch.zeros(1, outputs, 1, 1))
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        gain = (3 * self.gain).exp().transpose(0, 1)
        bias = self.conv.bias * gain.flatten()
        weight, conv = self.conv.weight * gain, self.conv
        return F.conv2d(x, weight, bias, padding=conv.padding, groups=conv.groups)


class Head(Net):
    """What follows a first convolution, its actnorm and ReLU: 1×1, actnorm, ReLU, gained 3×3.

    ``groups`` of nets side by side, with as many channels each.
    """

    def __init__(self, width: int, outputs: int, groups: int = 1):
        super().__init__()
        self.mix = NormedConv(width, width, 1, groups)
        self.last = GainedConv(width, outputs, groups)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.last(F.relu(self.mix(hidden), inplace=True))


class CouplingNet(Net):
    """3×3 → 1×1 → gained 3×3. A condition enters as its half of the first convolution's output.

    Each half has an actnorm of its own.
    """

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.first = NormedConv(inputs, width, 3)
        self.head = Head(width, outputs)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        hidden = self.first(x)
        if condition is not None:
            hidden = hidden + condition
        return self.head(F.relu(hidden, inplace=True))
