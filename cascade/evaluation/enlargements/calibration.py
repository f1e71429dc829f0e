"""How sure samples are: where the true value lies among them, pixel by pixel.

The n samples of a low image and the true image are n + 1 exchangeable draws if the model is exact.
The true value is then as often the k-th of them as any other, whatever the image looks like, and
between two of the samples' order statistics as often as these say. Values at which all n + 1 agree
say nothing and are left out; since that is symmetric in them, it leaves the rest exchangeable.
Source: Gneiting, Balabdaoui and Raftery, 2007, Probabilistic forecasts, calibration and sharpness,
https://doi.org/10.1111/j.1467-9868.2007.00587.x; Hamill, 2001, Interpretation of rank histograms,
https://doi.org/10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.utils.seeds import generator

LEVELS = (0.5, 0.9)  # nominal coverage of the intervals that are reported
SUMS = ("values", "crps", "mean_error", "bicubic_error", "variance", "mean_square")


@dataclass(frozen=True)
class Coverage:
    """How often the true value lies in a central interval of nominal coverage ``level``."""

    level: float
    share: float
    error: float  # its standard error, images as units; not a number for a single image


@dataclass(frozen=True)
class Calibration:
    """What `calibration` finds; errors and CRPS are means over pixel values, in grey levels.

    ``ranks`` are the shares of ranks 0..n among the values that are not ``decided``: 1/(n+1) each
    for an exact model. ``unevenness`` is the root mean square of (n+1)·share − 1, and
    ``by_chance`` what an exact model has of it with as many images. ``spread_to_error`` is 1 for an
    exact model, less if it is too sure.
    """

    samples: int
    ranks: list[float]
    unevenness: float
    by_chance: float
    coverage: list[Coverage]
    decided: float  # share of values at which the samples and the truth all agree
    crps: float
    mean_error: float  # mean absolute error of the samples' mean, in grey levels
    bicubic_error: float  # that of bicubic interpolation: the CRPS of a single image is its error
    spread_to_error: float

    @property
    def verdict(self) -> str:
        """What the widest reported interval says beyond two standard errors, else the ranks."""
        widest = self.coverage[-1]
        apart = widest.share - widest.level
        if self.decided == 1:
            return "the samples and the truth all agree, everywhere: that tells nothing"
        if math.isnan(widest.error):
            return "of a single image no standard error is known"
        if abs(apart) <= 2 * widest.error:
            sure = "no sign of over- or under-confidence"
            flat = self.unevenness <= 2 * self.by_chance
            return sure if flat else f"{sure}, though ranks are less even than by chance"
        kind = "over" if apart < 0 else "under"
        return f"{kind}-confident: {widest.share:.1%} lie where {widest.level:.0%} should"


def ranks(truth: Tensor, samples: Tensor, source: torch.Generator) -> Tensor:
    """How many of the samples (S, …) lie below the truth (…), int64; ties are broken by chance.

    Among k samples that equal it the truth takes each of the k + 1 places as often.
    """
    below, equal = (samples < truth).sum(0), (samples == truth).sum(0)
    chance = torch.rand(truth.shape, generator=source, dtype=torch.float64)
    return below + (chance * (equal + 1)).long()


def crps(truth: Tensor, samples: Tensor) -> Tensor:
    """Continuous ranked probability score (…) of samples (S, …), fair: unbiased for any S ≥ 2.

    Σᵢ |xᵢ − y| / S − Σᵢⱼ |xᵢ − xⱼ| / (2 S (S − 1)), in the units of the values. Its expectation is
    that of infinitely many samples. Source: Ferro, 2014, Fair scores for ensemble forecasts,
    https://doi.org/10.1002/qj.2270, equation 8; Gneiting and Raftery, 2007, section 4.2,
    https://doi.org/10.1198/016214506000001437
    """
    count = len(samples)
    values = samples.double().sort(0).values
    weights = 2 * torch.arange(count, dtype=torch.float64) - count + 1
    apart = torch.tensordot(weights, values, 1)  # Σ |xᵢ − xⱼ| over pairs i < j
    return (values - truth).abs().mean(0) - apart / (count * (count - 1))


def tallies(
    truth: Tensor, samples: Tensor, bicubic: Tensor, seed: int, numbers: Sequence[int]
) -> list[Tensor]:
    """Counts of ranks (N, S + 1), and sums over an image's values (N, len(SUMS)), float64.

    ``truth`` and ``bicubic`` are uint8 (N, C, H, W), ``samples`` (S, N, C, H, W) with S ≥ 2. Ties
    are broken by the seed and each image's own number.
    """
    count = len(samples)
    true, mean = truth.double(), samples.double().mean(0)
    undecided = (samples != truth).any(0).flatten(1)
    counts = torch.stack(
        [
            torch.bincount(
                ranks(truth[n], samples[:, n], generator("ranks", seed, number)).flatten()[
                    undecided[n]
                ],
                minlength=count + 1,
            )
            for n, number in enumerate(numbers)
        ]
    )
    sums = [
        torch.ones_like(true),
        crps(true, samples),
        (mean - true).abs(),
        (bicubic.double() - true).abs(),
        samples.double().var(0),
        (mean - true).square(),
    ]
    return [counts.double(), torch.stack([part.flatten(1).sum(1) for part in sums], 1)]


def calibration(counts: Tensor, sums: Tensor) -> Calibration:
    """What tables of `tallies` say together, images as units."""
    samples = counts.shape[1] - 1
    shares, errors = _shares(counts)
    flat = (samples + 1) * shares - 1
    total = dict(zip(SUMS, sums.sum(0).tolist(), strict=True))
    means = {name: total[name] / total["values"] for name in SUMS}
    spread = (samples + 1) / samples * means["variance"]  # of the truth about the samples' mean
    return Calibration(
        samples,
        shares.tolist(),
        flat.square().mean().sqrt().item(),
        (samples + 1) * errors.square().mean().sqrt().item(),
        [_coverage(counts, level) for level in LEVELS],
        1 - counts.sum().item() / total["values"],
        means["crps"],
        means["mean_error"],
        means["bicubic_error"],
        math.sqrt(spread / means["mean_square"]) if means["mean_square"] else math.nan,
    )


def inside(samples: int, level: float) -> Tensor:
    """How much of each rank 0..n counts as inside the central interval of a level, (n + 1,).

    The interval between the l-th sample from either end holds the truth with probability
    (n + 1 − 2l)/(n + 1). Where no whole l gives the level, the two nearest intervals are mixed, so
    that an exact model is inside with probability ``level``. With n = 19 half and nine tenths are
    intervals themselves.
    """
    places = torch.arange(samples + 1, dtype=torch.float64)
    depth = torch.minimum(places, samples - places)
    return (depth + 1 - (1 - level) * (samples + 1) / 2).clamp(0, 1)


def coverage_curve(shares: Sequence[float]) -> list[tuple[float, float]]:
    """(nominal, found) coverage of every interval between order statistics, narrowest first."""
    count = len(shares)
    spans = [range(left, count - left) for left in reversed(range((count + 1) // 2))]
    return [(len(span) / count, sum(shares[i] for i in span)) for span in spans]


def _coverage(counts: Tensor, level: float) -> Coverage:
    weights = inside(counts.shape[1] - 1, level)
    share, error = _shares(torch.stack([counts @ weights, counts @ (1 - weights)], 1))
    return Coverage(level, share[0].item(), error[0].item())


def _shares(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (K,) of counts (N, K) of N images, and their standard errors, a ratio's.

    Pixels of one image depend on one another, so that images are the units.
    """
    images, total = len(counts), counts.sum()
    shares = counts.sum(0) / total
    rest = counts - shares * counts.sum(1, keepdim=True)
    if images == 1:
        return shares, torch.full_like(shares, math.nan)
    return shares, (rest.square().sum(0) * images / (images - 1)).sqrt() / total
