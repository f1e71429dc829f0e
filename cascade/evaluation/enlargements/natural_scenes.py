"""Statistics of natural scenes: what NIQE and PIQE look at in an image's luma.

Locally normalised, the values of photographs are distributed alike, and distortions change that.
Source: Mittal, Moorthy and Bovik, 2012, https://doi.org/10.1109/TIP.2012.2214050
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WINDOW, SIGMA = 7, 7 / 6  # of the Gaussian window, pixels
SHAPES = torch.arange(0.2, 10.0005, 0.001, dtype=torch.float64)  # of distributions, to choose from
NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))  # right, below, and along the two diagonals


def luma(image: Tensor) -> Tensor:
    """Whole grey levels, float64 (H, W), of an image uint8 (1 or 3, H, W), by Rec. 601."""
    values = image.double()
    if len(image) == 1:
        return values[0]
    return torch.tensordot(values.new_tensor([0.299, 0.587, 0.114]), values, 1).round()


def normalised(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Values (H, W) minus the mean about them, over 1 + the deviation σ about them; and σ.

    The window is Gaussian; beyond its borders an image goes on as it ends.
    """
    places = torch.arange(WINDOW, dtype=grey.dtype) - WINDOW // 2
    weights = (-places.square() / (2 * SIGMA**2)).exp()
    weights = weights / weights.sum()
    seen = torch.stack([grey, grey.square()])[:, None]
    seen = F.pad(seen, (WINDOW // 2,) * 4, mode="replicate")
    seen = F.conv2d(F.conv2d(seen, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
    mean, square = seen[:, 0]
    deviation = (square - mean.square()).abs().sqrt()
    return (grey - mean) / (deviation + 1), deviation


def features(values: Tensor) -> Tensor:
    """The 18 features of patches of normalised values (N, h, w), (N, 18).

    Of the values: shape, and mean scale of both sides. Of their products with each neighbour,
    inside the patch as if it were periodic: shape, mean, scale of the left and of the right side.
    Source: Mittal, Soundararajan and Bovik, 2013, section II.B,
    https://doi.org/10.1109/LSP.2012.2227726
    """
    shape, left, right = asymmetric(values.flatten(1))
    result = [shape, (left + right) / 2]
    for shift in NEIGHBOURS:
        products = values * values.roll(shift, (1, 2))
        shape, left, right = asymmetric(products.flatten(1))
        mean = (right - left) * (torch.lgamma(2 / shape) - torch.lgamma(1 / shape)).exp()
        result += [shape, mean, left, right]
    return torch.stack(result, 1)


def asymmetric(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Shape and both sides' scales (N,) of asymmetric generalised Gaussians of values (N, K).

    By moments, the shape to 0.001; not a number where a side has no values. Source: Lasmar,
    Stitou and Berthoumieu, 2009, https://doi.org/10.1109/ICIP.2009.5414404
    """
    sides = [values.clamp(max=0), values.clamp(min=0)]
    counts = [(values < 0).sum(1), (values > 0).sum(1)]
    left, right = ((s.square().sum(1) / n).sqrt() for s, n in zip(sides, counts, strict=True))
    ratio = left / right
    moments = values.abs().mean(1).square() / values.square().mean(1)
    wanted = moments * (ratio**3 + 1) * (ratio + 1) / (ratio.square() + 1).square()
    one, two, three = (torch.lgamma(n / SHAPES) for n in (1, 2, 3))
    known = (2 * two - one - three).exp()  # rises with the shape
    above = torch.searchsorted(known, wanted.contiguous()).clamp(1, len(known) - 1)
    nearer = (wanted - known[above - 1]) < (known[above] - wanted)
    shape = torch.where(nearer, SHAPES[above - 1], SHAPES[above])
    shape = torch.where(wanted.isfinite(), shape, torch.nan)
    scale = ((torch.lgamma(1 / shape) - torch.lgamma(3 / shape)) / 2).exp()
    return shape, left * scale, right * scale
