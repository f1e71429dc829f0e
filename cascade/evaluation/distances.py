"""Distances between two sets of features: what the scores of samples are made of.

Features are float32 (N, F), a row an image.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from stages import InputError, InputWarning

NEIGHBOURS = {"precision": 3, "density": 5}  # k of precision and recall, of density and coverage
FEWEST = 6  # images: the fifth nearest other one must exist
POINTS = 1024  # whose distances to all others are held at once


def compare(real: Tensor, fake: Tensor, seed: int = 0, device: str = "cpu") -> dict[str, float]:
    """Every score of samples' features beside real ones.

    ``frechet`` and ``kernel`` distance (FID and KID where the features are Inception's), and
    ``precision``, ``recall``, ``density``, ``coverage``. ``seed`` draws the kernel's subsets.
    """
    if min(len(real), len(fake)) < FEWEST:
        raise InputError(
            f"scores need {FEWEST} images of either kind, got {len(real)} real ones and "
            f"{len(fake)} samples"
        )
    return {
        "frechet": frechet_distance(real, fake),
        "kernel": kernel_distance(real, fake, seed),
        **neighbourhoods(real.to(device), fake.to(device)),
    }


def frechet_distance(one: Tensor, two: Tensor) -> float:
    """|μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) of the two sets' means and covariances, by clean-fid.

    A singular covariance is an `InputWarning`. Raises `InputError` where the root of the product
    has no real value: far too few images.
    """
    from cleanfid.fid import fid_from_feats
    from scipy.linalg import LinAlgWarning

    try:
        with warnings.catch_warnings(record=True) as given:
            warnings.simplefilter("always")
            distance = float(fid_from_feats(one.numpy(), two.numpy()))
    except ValueError:
        raise InputError(
            f"the Fréchet distance of {len(one)} and {len(two)} images by {one.shape[1]} features "
            "is lost in rounding; take more images"
        ) from None
    if any(warning.category is LinAlgWarning for warning in given):
        warnings.warn(
            "features have a singular covariance; the Fréchet distance may be inexact",
            InputWarning,
            stacklevel=2,
        )
    return distance


def kernel_distance(real: Tensor, fake: Tensor, seed: int = 0) -> float:
    """Unbiased squared MMD under (x·y/F + 1)³, the mean over 100 subsets, by clean-fid.

    The subsets, of up to 1,000 images, are drawn by ``seed``. Computed in float64 and rounded to
    float32, so that the number of threads does not show. Source: Bińkowski et al., 2018,
    https://arxiv.org/abs/1801.01401
    """
    from cleanfid import fid

    before = np.random.get_state()
    np.random.seed(seed % 2**32)  # all that numpy takes
    try:
        distance = fid.kernel_distance(real.double().numpy(), fake.double().numpy())
        return float(np.float32(distance))
    finally:
        np.random.set_state(before)


def neighbourhoods(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Precision and recall (k = 3), density and coverage (k = 5).

    A ball around each image reaches its k-th nearest other image of the same set. ``precision`` is
    the share of samples in some real ball, ``recall`` that of real images in some sample's ball;
    ``density`` the mean number of real balls a sample lies in, over k; ``coverage`` the share of
    real balls that hold a sample. Sources: Kynkäänniemi et al., 2019,
    https://arxiv.org/abs/1904.06991; Naeem et al., 2020, https://arxiv.org/abs/2002.09797
    """
    middle = real.double().mean(0)  # or rounding in |x|² − 2x·y + |y|² is larger than need be
    real, fake = real.double() - middle, fake.double() - middle
    few, many = NEIGHBOURS["precision"], NEIGHBOURS["density"]
    near_real, _ = _inside(fake, real, _radii(real, few))
    near_fake, _ = _inside(real, fake, _radii(fake, few))
    balls, held = _inside(fake, real, _radii(real, many))
    return {
        "precision": _share(near_real > 0),
        "recall": _share(near_fake > 0),
        "density": balls.double().mean().item() / many,
        "coverage": _share(held > 0),
    }


def _radii(points: Tensor, k: int) -> Tensor:
    """Each point's distance to its k-th nearest other one; the nearest of all is itself."""
    parts = points.split(POINTS)
    return torch.cat([torch.cdist(part, points).kthvalue(k + 1).values for part in parts])


def _inside(points: Tensor, centres: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """How many balls each point lies in, and how many points each ball holds."""
    balls, held = [], torch.zeros(len(centres), dtype=torch.int64, device=centres.device)
    for part in points.split(POINTS):
        inside = torch.cdist(part, centres) <= radii
        balls.append(inside.sum(1))
        held += inside.sum(0)
    return torch.cat(balls), held


def _share(flags: Tensor) -> float:
    return flags.double().mean().item()
