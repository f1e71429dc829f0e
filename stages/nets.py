"""The nets inside couplings and injectors: not invertible, and apart from the algebra."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stages.convolve import Layer, convolve
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
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]  # it has one

    def layer(self) -> Layer:
        """Weight and bias of the one convolution."""
        gain = (3 * self.gain).exp().transpose(0, 1)
        bias: Any = self.conv.bias
        return self.conv.weight * gain, bias * gain.flatten()


class Head(Net):
    """What follows a first convolution, its actnorm and ReLU: 1×1, actnorm, ReLU, gained 3×3.

    ``groups`` of nets side by side, with as many channels each.
    """

    def __init__(self, width: int, outputs: int, groups: int = 1):
        super().__init__()
        self.groups = groups
        self.mix = NormedConv(width, width, 1, groups)
        self.last = GainedConv(width, outputs, groups)

    def fit(self, hidden: Tensor) -> None:
        """Fit the normalisation to what comes after ``hidden``, once."""
        self.mix.fit(hidden)

    def layers(self) -> list[Layer]:
        """Weights and biases, with a ReLU between the two."""
        return [self.mix.layer(), self.last.layer()]

    def forward(self, hidden: Tensor) -> Tensor:
        return convolve(hidden, *self.layers(), groups=self.groups)


class CouplingNet(Net):
    """3×3 → 1×1 → gained 3×3. A condition enters as its half of the first convolution's output.

    Each half has an actnorm of its own.
    """

    def __init__(self, inputs: int, width: int, outputs: int):
        super().__init__()
        self.first = NormedConv(inputs, width, 3)
        self.head = Head(width, outputs)

    def fit(self, x: Tensor, condition: Tensor | None = None) -> None:
        """Fit the first normalisation to ``x``, the second to what follows, once."""
        self.first.fit(x)
        self.head.fit(F.relu(convolve(x, self.first.layer(), added=condition)))

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        return convolve(x, self.first.layer(), *self.head.layers(), added=condition)
