"""Variational augmentation: a low image disturbed in the latent space of the stage that makes it.

The frozen previous stage encodes the clean low image, σ·ε is added to its whitened noise, and the
decoded image takes the clean one's place as a condition. Seen as a variational posterior over that
noise, q = N(z, σ²I), it has a closed-form divergence from the prior, `kl_to_prior`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from stages import Flow, InputError

LIMIT = 2.0  # |y| beyond which an image counts as exploded; proper ones live in ±½


@torch.no_grad()
def disturb(
    flow: Flow,
    y: Tensor,
    lower: Tensor | None,
    label: Tensor | None,
    sigma: float,
    noise: Tensor,
    limit: float = LIMIT,
) -> tuple[Tensor, Tensor]:
    """y' = f⁻¹(f(y) + σ·ε), and which rows exploded and are the clean image instead, bool (B,).

    ``y`` (B, C, H, W) holds the bin centres of the clean image, ``lower`` those of the clean image
    that ``flow`` conditions on, ``noise`` is standard normal ε in the shape of ``y``. The result
    may overshoot ±½, which `quantise` clips; see `restore` for ``limit``. σ = 0 gives ``y``.
    """
    if sigma == 0:
        return y, torch.zeros(len(y), dtype=torch.bool, device=y.device)
    z, _ = flow.encode(y, lower, label)
    return restore(flow.decode(z + sigma * noise, lower, label), y, limit)


def restore(decoded: Tensor, clean: Tensor, limit: float = LIMIT) -> tuple[Tensor, Tensor]:
    """``decoded`` (B, C, H, W), with ``clean`` in the rows that exploded; which these are, (B,).

    A row explodes where a value is not finite or above ``limit`` in size.
    """
    replaced = ~(decoded.abs() <= limit).flatten(1).all(1)
    return torch.where(replaced[:, None, None, None], clean, decoded), replaced


def kl_to_prior(z: Tensor, sigma: float) -> Tensor:
    """KL(N(z, σ²I) ‖ N(0, I)) = ½(kσ² + zᵀz − k − k·log σ²) in nats, k = dim z; float64 (B,).

    Raises `InputError` for σ = 0, where it is infinite.
    """
    if not sigma > 0:
        raise InputError(f"only a sigma above 0 has a divergence from the prior, got {sigma}")
    flat = z.double().flatten(1)
    k = flat.shape[1]
    return 0.5 * (flat.square().sum(1) + k * (sigma**2 - 1 - 2 * math.log(sigma)))
