"""The nets of an exact stage in fixed point: the same integers on every machine.

Weights and activations are whole numbers held in float64, and no sum of their products reaches
2⁵³, up to which float64 holds every whole number. So each sum is exact, in whatever order and with
whichever instructions it is computed, and what follows it is integer arithmetic.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cascade.codec.integers import UNIT
from stages import InputError
from stages.encoder import ResidualEncoder
from stages.integers.parameters import ParameterNet
from stages.nets import ResidualBlock

WEIGHT = 14  # weights are in units of 2⁻¹⁴
LARGEST = 2**23  # of an activation, in its units: 2,048
EXACT = 2**53  # whole numbers below it are float64s


class FixedConv:
    """A convolution of whole numbers in units of 2⁻¹², with the padding that keeps the size.

    Raises `InputError` for weights whose sums may be inexact.
    """

    def __init__(self, conv: nn.Conv2d):
        weight = conv.weight.detach().double().cpu()
        self.padding = weight.shape[-1] // 2
        self.weight = (weight * 2**WEIGHT).round().contiguous()
        bias = torch.zeros(len(weight)) if conv.bias is None else conv.bias.detach().cpu()
        half = 2 ** (WEIGHT - 1)  # so that rounding down afterwards rounds to the nearest
        self.bias = (bias.double() * 2 ** (WEIGHT + UNIT)).round() + half
        largest = self.weight.abs().flatten(1).sum(1) * LARGEST + self.bias.abs()
        if not (largest < EXACT).all():
            raise InputError("these weights are too large for exact sums: no codec can use them")

    def __call__(self, x: Tensor) -> Tensor:
        """float64 (B, I, h, w) of whole numbers within ±`LARGEST` → (B, O, h, w), likewise."""
        result = F.conv2d(x, self.weight, self.bias, padding=self.padding)
        return (result * 2.0**-WEIGHT).floor().clamp(-LARGEST, LARGEST)


class FixedBlock:
    """A `ResidualBlock`."""

    def __init__(self, block: Any):
        assert isinstance(block, ResidualBlock)
        self.one, self.two = FixedConv(block.one), FixedConv(block.two)

    def __call__(self, x: Tensor) -> Tensor:
        return (x + self.two(F.relu(self.one(F.relu(x))))).clamp(-LARGEST, LARGEST)


class FixedEncoder:
    """A `ResidualEncoder` of one level."""

    def __init__(self, encoder: ResidualEncoder):
        self.first = FixedConv(encoder.first)
        self.blocks = [FixedBlock(block) for block in encoder.blocks]

    def __call__(self, low: Tensor) -> Tensor:
        """Low images (B, C, h, w) of 8-bit values → features (B, F, h, w) in units of 2⁻¹²."""
        x = self.first(centred(low))
        for block in self.blocks:
            x = block(x)
        return x


class FixedParameterNet:
    """A `ParameterNet`."""

    def __init__(self, net: Any):
        assert isinstance(net, ParameterNet)
        self.first = None if net.first is None else FixedConv(net.first)
        self.chain = None if net.chain is None else FixedConv(net.chain)
        self.blocks = [FixedBlock(block) for block in net.blocks]
        self.last = FixedConv(net.last)

    def __call__(
        self, hidden: Tensor, values: Tensor | None = None, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Like the net's `forward`, in units of 2⁻¹²; the parameters are int64."""
        x = hidden
        if self.first is not None:
            assert values is not None  # or the net has no use for them
            x = (x + self.first(values)).clamp(-LARGEST, LARGEST)
        if self.chain is not None:
            assert before is not None
            x = (x + self.chain(before)).clamp(-LARGEST, LARGEST)
        for block in self.blocks:
            x = block(x)
        return self.last(F.relu(x)).long(), x


def centred(image: Tensor) -> Tensor:
    """The middles of the bins of 8-bit values, (v + ½)/256 − ½, in units of 2⁻¹²."""
    return (2 * image.long() - 255).double() * 2 ** (UNIT - 9)


def positions(height: int, width: int) -> Tensor:
    """Row and column of every pixel, from −1 to 1 in units of 2⁻¹², (1, 2, height, width)."""
    sides = []
    for side in (height, width):
        steps = max(1, side - 1)
        sides.append((torch.arange(side) * 2 ** (UNIT + 1) + steps // 2) // steps - 2**UNIT)
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))[None].double()
