"""The base density of every stage."""

from __future__ import annotations

import math

from torch import Tensor


def log_normal(z: Tensor) -> Tensor:
    """log N(z; 0, I) in nats, (B,): −½ (zᵀz + k·log 2π) with k numbers an image."""
    flat = z.flatten(1)
    return -0.5 * (flat.square().sum(1) + flat.shape[1] * math.log(2 * math.pi))
