"""A discretized mixture of logistics for each of many integers, and noise in place of them.

Source: PixelCNN++, https://arxiv.org/abs/1701.05517, sections 2.1 (a discretized mixture whose ends
collect what lies beyond them) and 2.2 (linear dependence between colours).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

FLOOR = 1e-4  # the probability of the uniform component, which bounds |z| and the cost of any value
BEYOND = 1e6  # where a logistic distribution function is 0 or 1 for certain
LARGEST_PART = 1 - 2**-14  # of a bin, so that v + u is never rounded up to v + 1 in float32


class Components(NamedTuple):
    """Logistics by value: log-weights, locations, log-scales (B, C, M, h, w), in integers."""

    log_weight: Tensor
    location: Tensor
    log_scale: Tensor

    def of_channel(self, channel: int) -> Components:
        """Those of one channel, (B, 1, M, h, w)."""
        return Components(*(part[:, channel : channel + 1] for part in self))

    def moved(self, shift: Any) -> Components:
        """The same with locations moved by (B, C, h, w), or by a number."""
        shift = shift.unsqueeze(2) if isinstance(shift, Tensor) else shift
        return self._replace(location=self.location + shift)


class Bins:
    """A discretized mixture for each of many values, (B, C, h, w), that lie between two bounds.

    Args:
        components: the mixture of each value.
        least: the smallest integer, (B, C, h, w) or of fewer dimensions.
        greatest: the largest integer, likewise.
    """

    def __init__(self, components: Components, least: Tensor, greatest: Tensor):
        self.components, self.least, self.greatest = components, least, greatest
        self.floor = FLOOR / (greatest - least + 1)

    def _arguments(self, edge: Tensor) -> Tensor:
        """What the logistic distribution functions at an edge are sigmoids of, (B, C, M, h, w)."""
        _, location, log_scale = self.components
        return (edge.unsqueeze(2) - location) * torch.exp(-log_scale)

    def _edges(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`_arguments` at both edges of integers' bins; beyond the bounds there is nothing."""
        lower, upper = self._arguments(value), self._arguments(value + 1)
        lower = lower.masked_fill((value <= self.least).unsqueeze(2), -BEYOND)
        return lower, upper.masked_fill((value >= self.greatest).unsqueeze(2), BEYOND)

    def log_mass(self, value: Tensor) -> Tensor:
        """log P of integers, (B, C, h, w) in nats."""
        return self._log_mass(value, *self._edges(value))

    def _log_mass(self, value: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """σ(b) − σ(a) = σ(b)·σ(−a)·(1 − e^(a−b)), where a difference would cancel to 0."""
        at_an_end = ((value <= self.least) | (value >= self.greatest)).unsqueeze(2)
        gap = torch.exp(-self.components.log_scale).masked_fill(at_an_end, BEYOND)
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-gap))
        mixed = torch.logsumexp(self.components.log_weight + inside, 2)
        return torch.logaddexp(mixed + math.log1p(-FLOOR), self.floor.log())

    def _below(self, edge: Tensor, argument: Tensor) -> Tensor:
        """P(integers < edge), precise where it is small."""
        return self._tail(argument) + self.floor * (edge - self.least)

    def _above(self, edge: Tensor, argument: Tensor) -> Tensor:
        """P(integers ≥ edge), precise where it is small."""
        return self._tail(-argument) + self.floor * (self.greatest + 1 - edge)

    def _tail(self, argument: Tensor) -> Tensor:
        mixed = (self.components.log_weight.exp() * torch.sigmoid(argument)).sum(2)
        return (1 - FLOOR) * mixed

    def noise(self, value: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """z = Φ⁻¹(F(v) + u·P(v)), from whichever tail of F is the smaller one, and log P(v)."""
        lower, upper = self._edges(value)
        log_mass = self._log_mass(value, lower, upper)
        mass = log_mass.exp()
        left = self._below(value, lower) + part * mass
        right = self._above(value + 1, upper) + (1 - part) * mass
        z = torch.special.ndtri(torch.minimum(left, right).clamp(1e-30, 0.5))
        return torch.where(left < right, z, -z), log_mass

    def value_of(self, z: Tensor, doublings: int) -> tuple[Tensor, Tensor, Tensor]:
        """The integer v and the part u of its bin that `noise` maps to z, by bisection; log P(v).

        ``doublings`` is the logarithm to base 2 of the largest number of values, rounded up.
        """
        left, right = torch.special.ndtr(z), torch.special.ndtr(-z)
        value, last = (bound.to(z).expand_as(z) for bound in (self.least, self.greatest))
        for _ in range(doublings):
            middle = torch.floor((value + last + 1) / 2)
            argument = self._arguments(middle)
            below, above = self._below(middle, argument), self._above(middle, argument)
            reached = torch.where(z < 0, below <= left, above >= right)
            value = torch.where(reached, middle, value)
            last = torch.where(reached, last, middle - 1)
        lower, upper = self._edges(value)
        log_mass = self._log_mass(value, lower, upper)
        from_left = left - self._below(value, lower)
        from_right = right - self._above(value + 1, upper)
        mass = log_mass.exp()
        part = torch.where(z < 0, from_left / mass, 1 - from_right / mass)
        return value, part.clamp(0, LARGEST_PART), log_mass


@dataclass
class Group:
    """What is known of a group of values before any of them is.

    ``components`` are those of every channel, (B, C, M, h, w), as long as the channels before are
    where they are expected, at ``anchor``; ``coefficients`` (B, C·(C − 1)/2, h, w), or of 0
    channels, say how far the others' deviations from there move them.
    """

    components: Components
    coefficients: Tensor
    anchor: Any  # (B, C, h, w), or a number
    least: Tensor
    greatest: Tensor

    def bins(self, before: Tensor, channel: int) -> Bins:
        """Those of one channel, given the integers (B, channel, h, w) of the channels before."""
        bounds = (self._of(bound, channel) for bound in (self.least, self.greatest))
        shift = self._shift(before, channel)
        return Bins(self.components.of_channel(channel).moved(shift), *bounds)

    def all_bins(self, values: Tensor) -> Bins:
        """Those of all channels, given all integers (B, C, h, w)."""
        shifts = [self._shift(values, channel) for channel in range(values.shape[1])]
        components = self.components.moved(torch.cat(shifts, dim=1))
        return Bins(components, self.least, self.greatest)

    def _shift(self, values: Tensor, channel: int) -> Tensor:
        """How far the channels before move one channel's locations, (B, 1, h, w).

        At first as far as the last of them deviates: colours go together.
        """
        if channel == 0 or not self.coefficients.shape[1]:
            return torch.zeros_like(self.components.location[:, :1, 0])
        anchor = self.anchor[:, :channel] if isinstance(self.anchor, Tensor) else self.anchor
        deviation = values[:, :channel] - anchor
        first = channel * (channel - 1) // 2
        predicted = self.coefficients[:, first : first + channel]
        return (predicted * deviation).sum(1, keepdim=True) + deviation[:, -1:]

    @staticmethod
    def _of(bound: Tensor, channel: int) -> Tensor:
        return bound[:, channel : channel + 1] if bound.ndim else bound
