"""The base density N(0, I), and the learned priors of the latents as affine maps to it.

Source: RealNVP, section 3.6 (latents that are split off at each level),
https://arxiv.org/abs/1605.08803; Glow (the learned, and the class-conditional, prior),
https://arxiv.org/abs/1807.03039.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.coupling import AffineCoupling
from stages.labels import ClassTable
from stages.nets import CouplingNet, NetMaker

LOG_SIGMA = (-10.0, 2.0)  # soft bounds of log σ of a learned prior


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) = −½ (zᵀz + k·log 2π) in nats, (B,), for k values in an image."""
    flat = z.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))


def inverse_sigma(raw: Tensor) -> Tensor:
    """1/σ of a learned prior, where log σ ≈ raw, softly limited to the range `LOG_SIGMA`.

    A softplus at each end: log σ is near raw in between (−0.13 at raw = 0), never above 2, and
    below −10 only by rounding. The upper bound keeps the inverse μ + σ·noise finite on inputs that
    the net has never seen.
    """
    low, high = LOG_SIGMA
    above = low + F.softplus(raw - low)
    log_sigma = high - F.softplus(high - above)
    return torch.exp(-log_sigma)


class SplitPrior(AffineCoupling):
    """The prior N(μ, σ²) of the half x₂ that is split off, given the other half x₁.

    As an affine map to standard normal noise: z₂ = (x₂ − μ)/σ, log_det = −Σ log σ, where a net
    computes μ and σ from x₁ (and the features, if ``conditional``). `inverse_sigma` limits σ.
    """

    def __init__(
        self,
        channels: int,
        width: int,
        conditional: bool = False,
        net: NetMaker = CouplingNet,
    ):
        super().__init__(channels, width, inverse_sigma, conditional, net)

    def _map(self, x: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = parameters
        return (x - shift) * scale, scale.log()

    def _inverse_map(self, y: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale = parameters
        return y / scale + shift, scale.log()


class ClassPrior(nn.Module):
    """The prior N(μ_y, σ_y²) of the coarsest latent (B, C, h, w), given the class y.

    As an affine map to standard normal noise: z = (x − μ_y)/σ_y, log_det = −h·w·Σ log σ_y. Every
    channel has one mean and one deviation per class, initially equal for all classes.
    `inverse_sigma` limits σ. Labels are those of `ClassTable`.
    """

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.classes = classes
        self.table = ClassTable(classes, 2 * channels)

    def _mean_scale(self, label: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.table(label)[:, :, None, None].chunk(2, dim=1)
        return mean, inverse_sigma(raw)

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = self._mean_scale(label)
        pixels = x.shape[2] * x.shape[3]
        return (x - mean) * scale, pixels * scale.log().flatten(1).sum(1)

    def inverse(self, z: Tensor, label: Tensor) -> Tensor:
        mean, scale = self._mean_scale(label)
        return z / scale + mean

    def log_probs(self, x: Tensor) -> Tensor:
        """log p(x | y) in nats for every class y, (B, classes)."""
        columns = []
        for y in range(self.classes):
            label = torch.full((len(x),), y, device=x.device)
            z, log_det = self(x, label)
            columns.append(log_normal(z) + log_det)
        return torch.stack(columns, dim=1)
