"""Claims that one cascade's figures are below another's, and what several seeds say of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from omegaconf import MISSING


@dataclass(frozen=True)
class Spread:
    """A figure over seeds: its mean, standard deviation (0 of one), least and greatest value."""

    mean: float
    deviation: float
    least: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """That of one value a seed, of one seed or more."""
        deviation = stdev(values) if len(values) > 1 else 0.0
        return cls(fmean(values), deviation, min(values), max(values), len(values))

    def apart(self, other: Spread) -> bool:
        """Whether no seed of one lies within the range of the other."""
        return self.most < other.least or other.most < self.least

    def effect(self, other: Spread) -> float | None:
        """The difference of the means over the deviation of both, pooled; None where that is 0.

        Cohen's d: Statistical Power Analysis for the Behavioral Sciences (1988), section 2.2.
        """
        pooled = math.sqrt((self.deviation**2 + other.deviation**2) / 2)
        return (self.mean - other.mean) / pooled if pooled else None


def spreads(results: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """Each figure over the seeds, a mapping each; nothing where there are none."""
    keys = list(results[0]) if results else []
    return {key: Spread.of([row[key] for row in results]) for key in keys}


@dataclass
class Claim:
    """What a table is to find: one row's figure of a column is ``below`` another row's, ``above``.

    Rows are named by their titles, columns by their heads: of all columns less is better.
    """

    says: str = MISSING
    below: str = MISSING
    above: str = MISSING
    column: str = MISSING


def verdict(below: Spread, above: Spread) -> str:
    """Whether a figure is below another one, of all seeds.

    Of two sets of three seeds that do not differ, chance alone sets one in twenty apart the way
    that is claimed, and one in twenty the other way.
    """
    if min(below.count, above.count) < 2:
        return "cannot be told: one seed"
    if not below.apart(above):
        return "cannot be told: the seeds' ranges meet"
    return "holds here" if below.most < above.least else "does not hold here"
