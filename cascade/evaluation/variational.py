"""The variational bound of a stage whose condition is disturbed: log P(x_i | x_{i−2}) from below.

Draw the whitened noise z of stage i−1 from N(0, I), decode it given x_{i−2}, quantise: that is how
a sample's low image comes about, and P(x_i | x_{i−2}) = E_z P_i(x_i | quantise(decode(z))). With
q = N(z*, σ²I) around the noise z* of the clean x_{i−1} (its bin centres), Jensen gives

    log P(x_i | x_{i−2}) ≥ E_q[log P_i(x_i | x'_{i−1})] − KL(q ‖ N(0, I))

with x' = quantise(decode(z)), for any z* and σ > 0. Quantising and clipping cost nothing: x' is a
function of z, the same one in sampling, so its own divergence is at most that of z. Sampling turns
any z into an image, however far its decoded values lie outside, so every draw counts: leaving out
those that explode would select the others, and the figure would no longer be a bound. The Haar
pyramid has no such bound: with another low image the same details make another image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.training.augmentation import kl_to_prior
from cascade.transforms.dequantise import log_volume
from cascade.utils.seeds import generator, image_digest
from stages import InputError


@dataclass
class VariationalReport:
    """A stage's terms for N images, each float64 (N,) in nats.

    ``clean`` is log P(x_i | x_{i−1}) and ``noisy`` is E_q[log P(x_i | x'_{i−1})], means over the
    same dequantisations; ``kl`` is that of q from the prior. Where stages have classes, all three
    are given each image's label.
    """

    clean: Tensor
    noisy: Tensor
    kl: Tensor
    pyramid: str = "bicubic"

    @property
    def bound(self) -> Tensor:
        """An unbiased estimate of the bound on log P(x_i | x_{i−2}), at labels where there are any.

        A Haar cascade has none, and gives nan: there nothing but its own low image makes an image,
        and the stages' sum is an equality already. E_q[log P_i] takes the place of stage i's term
        and −KL that of stage i−1's, never beside it. The bounds of neighbouring stages overlap: a
        composed figure takes one of them at most.
        """
        if self.pyramid == "haar":
            return torch.full_like(self.noisy, math.nan)
        return self.noisy - self.kl


def normal_noise(
    images: Tensor, shape: tuple[int, ...], seed: int, stage: int, draw: int
) -> Tensor:
    """Standard normal noise (B, *shape) that belongs to each image and to nothing else."""
    sources = [generator("disturb", seed, stage, draw, image_digest(i)) for i in images.cpu()]
    return torch.stack([torch.randn(shape, generator=source) for source in sources])


@torch.no_grad()
def variational(
    cascade: Cascade,
    images: Tensor,
    labels: Tensor | Sequence[int] | None,
    stage: int,
    sigma: float,
    samples: int = 1,
    seed: int = 0,
) -> VariationalReport:
    """Clean and noisy log-probabilities of stage number ``stage`` ≥ 1, and what bounds what.

    ``images`` are full ones, uint8 (N, C, H, W), ``labels`` int64 (N,), None where no stage uses
    them. An image's terms depend on its own values, its label and ``seed`` alone. Raises
    `InputError` for stage 0, which has none before it, a σ not above 0, or missing labels.
    """
    if not 1 <= stage < len(cascade.stages):
        raise InputError(f"stage {stage} has no bound; choose 1 to {len(cascade.stages) - 1}")
    if samples < 1:
        raise InputError(f"estimate the bound from at least one sample, not {samples}")
    labels = cascade.needed_labels(labels, len(images))
    levels: list[Any] = [None, *cascade.levels(images)]
    lower, low, high = levels[stage - 1 : stage + 2]
    above, below = cascade.stages[stage], cascade.stages[stage - 1]
    z = below.run(below.flow.noise_of, below.coding.centre(low), lower, labels)
    kl = kl_to_prior(z, sigma)

    clean, noisy = torch.zeros(2, len(images), dtype=torch.float64)
    for draw in range(samples):
        noise = normal_noise(high, below.flow.shape, seed, stage, draw)
        decoded = below.perturb(low, sigma * noise, lower, labels)
        disturbed, _ = below.coding.image(decoded, lower)
        y = above.coding.dequantise(high, seed, stage, draw)
        for total, condition in zip((clean, noisy), (low, disturbed), strict=True):
            total += above.run(above.flow.log_prob, y, condition, labels).double()
    volume = log_volume(math.prod(above.flow.shape), cascade.bits)
    return VariationalReport(
        clean / samples - volume, noisy / samples - volume, kl, cascade.pyramid
    )
