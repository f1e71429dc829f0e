"""Functions of numbers in fixed point, from tables that are the same on every machine.

A number x is held as the integer x·2ᵏ. Tables are computed in decimal arithmetic of 40 digits,
whose results are correctly rounded wherever they are computed, and are interpolated linearly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from functools import cache

import torch
from torch import Tensor

UNIT = 12  # of everything that a net computes: 2⁻¹²
EXACT = Context(prec=40)


@dataclass(frozen=True)
class Table:
    """A function on [start, end] in steps of 2⁻ᵏⁿᵒᵗˢ; beyond its ends it is constant.

    Args:
        values: int64, the function's values at the knots, in some unit.
        start: the first knot.
        knots: the logarithm to base 2 of the number of knots between two whole numbers.
    """

    values: Tensor
    start: int
    knots: int

    def __call__(self, x: Tensor, unit: int) -> Tensor:
        """The function of x·2⁻ᵘⁿⁱᵗ, where ``unit`` is above `knots`."""
        fine = unit - self.knots
        last = (len(self.values) - 1 << fine) - 1
        place = (x - (self.start << unit)).clamp(0, last)
        knot, rest = place >> fine, place & (1 << fine) - 1
        left, right = self.values[knot], self.values[knot + 1]
        return left + ((right - left) * rest >> fine)


def table(
    function: Callable[[Decimal], Decimal], start: int, end: int, knots: int, unit: int
) -> Table:
    """The table of a function, in units of 2⁻ᵘⁿⁱᵗ."""
    with localcontext(EXACT):
        places = [Decimal(i) / 2**knots for i in range(start << knots, (end << knots) + 1)]
        return Table(torch.tensor([whole(function(x), unit) for x in places]), start, knots)


def whole(value: Decimal | Fraction, unit: int) -> int:
    """A number in units of 2⁻ᵘⁿⁱᵗ, rounded to the nearest, halves to even."""
    return round(Fraction(value) * 2**unit)


def softplus(x: Decimal) -> Decimal:
    return x + (1 + (-x).exp()).ln() if x > 0 else (1 + x.exp()).ln()


SIGMOID_UNIT = 40
EXP_UNIT = 30


@cache
def sigmoid() -> Table:
    """1/(1 + e⁻ˣ), in units of 2⁻⁴⁰."""
    return table(lambda x: 1 / (1 + (-x).exp()), -28, 28, 7, SIGMOID_UNIT)


@cache
def exponential() -> Table:
    """eˣ for x ≤ 0, in units of 2⁻³⁰."""
    return table(lambda x: x.exp(), -20, 1, 7, EXP_UNIT)


@cache
def deviations(largest: int) -> Tensor:
    """asinh(d/2)/2 for whole d within ±largest, in units of 2⁻¹², d = −largest first."""
    with localcontext(EXACT):
        half = [Decimal(d) / 2 for d in range(largest + 1)]
        positive = [whole((d + (d * d + 1).sqrt()).ln() / 2, UNIT) for d in half]
    return torch.tensor([-value for value in positive[:0:-1]] + positive)
