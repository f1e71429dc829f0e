"""Scores of enlarged images beside the true ones, and means of them over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.data.sources import ImageSource, drawn
from cascade.data.stage_images import open_stage_images
from cascade.evaluation.distances import frechet_distance
from cascade.evaluation.enlargements.image_metrics import SMALLEST, mean_squares, psnr, ssim
from cascade.evaluation.features import FeatureNet
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.transforms.pyramid import halve_to
from cascade.versus.losses import feature_distance, windows
from stages import InputError

SCORES = {  # whether more is better, and its name
    "frechet": (False, "Fréchet distance"),
    "distance": (False, "feature distance"),
    "psnr": (True, "PSNR, dB"),
    "ssim": (True, "SSIM"),
    "lr_psnr": (True, "LR-PSNR, dB"),
    "diversity": (True, "diversity, levels"),
}


@dataclass
class Pairs:
    """True images uint8 (N, C, H, W) and low ones (N, C, h, w), both as integers of ``bits``."""

    true: Tensor
    low: Tensor
    bits: int

    @property
    def factor(self) -> int:
        return self.true.shape[-1] // self.low.shape[-1]

    @property
    def shown(self) -> tuple[Tensor, Tensor]:
        """Low and true images in 8 bits."""
        return expand_bits(self.low, self.bits), expand_bits(self.true, self.bits)

    def halved(self, image: Tensor) -> Tensor:
        """An image brought to the low one's size, by the pyramid that made it."""
        return halve_to(image, self.low.shape[-1], self.bits)


def open_pairs(config: StageConfig, factor: int, split: str, limit: int | None) -> Pairs:
    """The images of a split that all are scored on: all, or so many of them drawn by chance."""
    source: ImageSource = open_stage_images(config, split)
    size, bits = config.data.size, config.data.bits
    if size < SMALLEST:
        raise InputError(f"SSIM needs images of {SMALLEST}x{SMALLEST} or more, not {size}x{size}")
    true = halve_to(reduce_bits(source.read(drawn(source, limit)), bits), size, bits)
    return Pairs(true, halve_to(true, size // factor, bits), bits)


class Scorer:
    """Scores by one net's features of windows ``side`` pixels wide.

    ``frechet`` is the distance between the true images' windows and those of one version of each,
    ``distance`` the mean |f/|f| − g/|g||² of a window and the true one in its place.
    """

    def __init__(self, pairs: Pairs, features: FeatureNet, side: int):
        self.pairs, self.features, self.side = pairs, features, side
        self.low, self.true = pairs.shown
        self.wanted = features(windows(self.true, side))
        ssim(self.true[:1], self.true[:1])  # says now, not after hours, what is not installed

    def __call__(
        self, make: Callable[[int], tuple[Tensor, Tensor]], versions: int
    ) -> tuple[dict[str, float], Tensor]:
        """Mean scores of so many versions, and the first version's images uint8 (N, C, H, W).

        ``make`` gives a version's integer images, and whether each is finite. ``psnr``, ``ssim``,
        ``lr_psnr`` and ``diversity`` are those of
        `cascade.evaluation.enlargements.super_resolution`; ``not_finite`` is the share of images
        that were not.
        """
        rows, drawn, lost = [], [], 0
        frechet = math.nan
        for number in range(versions):
            image, finite = make(number)
            lost += int((~finite).sum())
            features = self.features(windows(expand_bits(image, self.pairs.bits), self.side))
            if number == 0:
                frechet = frechet_distance(self.wanted, features)
            rows.append(self._beside(image, features))
            drawn.append(expand_bits(image, self.pairs.bits))
        means = {key: fmean(row[key] for row in rows) for key in rows[0]}
        spread = torch.stack(drawn).double().std(0).mean().item() if versions > 1 else 0.0
        squares = means.pop("lr_squares")
        scores = {
            "frechet": frechet,
            **means,
            "lr_psnr": psnr(torch.tensor(squares)).item(),
            "diversity": spread,
            "not_finite": lost / (versions * len(self.true)),
        }
        return scores, drawn[0]

    def _beside(self, image: Tensor, features: Tensor) -> dict[str, float]:
        pairs = self.pairs
        shown = expand_bits(image, pairs.bits)
        halved = expand_bits(pairs.halved(image), pairs.bits)
        return {
            "distance": feature_distance(features, self.wanted).mean().item(),
            "psnr": psnr(mean_squares(shown, self.true)).mean().item(),
            "ssim": ssim(shown, self.true).mean().item(),
            "lr_squares": mean_squares(halved, self.low).mean().item(),
        }
