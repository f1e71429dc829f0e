"""Discretized mixtures of logistics in integers, and values as binary decisions of known odds."""

from __future__ import annotations

from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Protocol

import torch
from torch import Tensor

from cascade.codec.integers import (
    EXACT,
    SIGMOID_UNIT,
    UNIT,
    Table,
    exponential,
    sigmoid,
    softplus,
    table,
    whole,
)
from stages.integers.bins import FLOOR
from stages.integers.mixture import SHARPEST, WIDEST

BITS = 8
ODDS = 22  # probabilities of a decision are in units of 2⁻²²
WEIGHT = 20  # those of components in units of 2⁻²⁰
SHARP = 24  # inverse scales in units of 2⁻²⁴
FARTHEST = 2 ** (UNIT + 12)  # of a location from 0, in its units
UNIFORM = 2**SIGMOID_UNIT // round(1 / FLOOR)  # the uniform component's share


class Coder(Protocol):
    """What takes or gives decisions."""

    def __call__(self, odds: Tensor, bits: Tensor | None) -> Tensor:
        """Decisions bool (N,), which are 1 with probability odds·2⁻²²; ``bits`` where known."""
        ...


@cache
def sharpness() -> Table:
    """The inverse scale of a log-scale before it is limited, in units of 2⁻²⁴."""

    def inverse(x: Decimal) -> Decimal:
        above = least + softplus(x - least)
        return (softplus(most - above) - most).exp()

    with localcontext(EXACT):
        least, most = Decimal(str(SHARPEST)).ln(), (Decimal(str(WIDEST)) * 2**BITS).ln()
        return table(inverse, -12, 16, 7, SHARP)


@cache
def beginning(count: int, relative: bool) -> tuple[Tensor, Tensor]:
    """The locations and log-scales that the nets' outputs are added to, (count, 1, 1), int64."""
    places, full = [Fraction(2 * i + 1, 2 * count) for i in range(count)], 2**BITS
    with localcontext(EXACT):
        if relative:
            rise = Decimal(full // 4).ln()
            scales = [Decimal("0.25").ln() + rise * p.numerator / p.denominator for p in places]
            locations = [Fraction(1, 2)] * count
        else:
            scales = [(Decimal(full) / (2 * count)).ln()] * count
            locations = [(place - Fraction(1, 2)) * full for place in places]
        made = [[whole(x, UNIT) for x in numbers] for numbers in (locations, scales)]
    locations_, scales_ = (torch.tensor(numbers)[:, None, None] for numbers in made)
    return locations_, scales_


class FixedBins:
    """The mixture of each of many values, (B, h, w), within bounds, like `stages.integers.bins`.

    Args:
        raw: a net's outputs for one channel, int64 (B, 3, M, h, w) in units of 2⁻¹².
        shift: how far what is known moves the locations, (B, h, w) in units of 2⁻¹².
        least: the smallest integer of each value, int64 (B, h, w).
        greatest: the largest.
        relative: whether values are near 0, rather than anywhere in the range.
    """

    def __init__(self, raw: Tensor, shift: Tensor, least: Tensor, greatest: Tensor, relative: bool):
        logits, location, log_scale = raw.unbind(1)
        first_location, first_scale = beginning(logits.shape[1], relative)
        powers = exponential()(logits - logits.amax(1, keepdim=True), UNIT)
        self.weight = (powers << WEIGHT) // powers.sum(1, keepdim=True)
        moved = first_location + (location << BITS - 5) + shift[:, None]
        self.location = moved.clamp(-FARTHEST, FARTHEST)
        self.sharpness = sharpness()(first_scale + log_scale, UNIT)
        self.least, self.greatest = least, greatest
        self.uniform = UNIFORM // (greatest - least + 1)

    def below(self, edge: Tensor) -> Tensor:
        """The mass of the integers below inner edges (B, h, w); beyond the bounds there is none."""
        fine = 16
        argument = ((edge[:, None] << UNIT) - self.location) * self.sharpness
        argument = argument >> UNIT + SHARP - fine
        mixed = (self.weight * sigmoid()(argument, fine)).sum(1) >> WEIGHT
        return mixed + self.uniform * (edge - self.least)

    def total(self) -> Tensor:
        """The mass of all integers."""
        return 2**SIGMOID_UNIT + self.uniform * (self.greatest + 1 - self.least)

    def code(self, coder: Coder, values: Tensor | None, where: Tensor) -> Tensor:
        """Integers (B, h, w), by halving their ranges; ``values`` where they are known.

        Only those of the places ``where``, bool (h, w), are coded.
        """
        low, high = self.least.clone(), self.greatest.clone()
        under, over = torch.zeros_like(low), self.total()
        while (open_ := (low < high) & where).any():
            middle = low + high + 1 >> 1
            at_middle = self.below(middle)
            odds = (over - at_middle << ODDS) // (over - under)
            odds = odds.clamp(1, 2**ODDS - 1)
            known = None if values is None else (values >= middle)[open_]
            up = torch.zeros_like(open_)
            up[open_] = coder(odds[open_], known)
            down = open_ & ~up
            low, under = torch.where(up, middle, low), torch.where(up, at_middle, under)
            high, over = torch.where(down, middle - 1, high), torch.where(down, at_middle, over)
        return low
