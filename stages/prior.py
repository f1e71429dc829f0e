"""The class-conditional prior of the coarsest latent."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stages.gaussian import log_normal
from stages.scale import whitening


class ClassPrior(nn.Module):
    """N(μ_y, σ_y²) per channel of the coarsest latent (B, C, h, w), linear in the one-hot label.

    Seen as an affine map it whitens: z = (x − μ_y)/σ_y, log_det = −h·w·Σ log σ_y. All classes
    start alike; log σ is bounded softly (`stages.scale.whitening`).
    """

    def __init__(self, classes: int, channels: int):
        super().__init__()
        self.classes = classes
        self.table = nn.Embedding(classes, 2 * channels)
        nn.init.zeros_(self.table.weight)

    def _mean_scale(self, label: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.table(label)[:, :, None, None].chunk(2, dim=1)
        return mean, whitening(raw)

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
