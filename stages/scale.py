"""Scale laws: how the raw output of a net becomes the positive scale s of an affine map.

Each maps raw (any shape) to s of the same shape; the map is y = s·x + t and log_det = Σ log s.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.errors import InputError

ScaleLaw = Callable[[Tensor], Tensor]
FLOOR = 1e-3  # the least scale of an unsquished coupling, which keeps its inverse finite


def scale_law(squish: float, squish_range: str = "sigmoid") -> ScaleLaw:
    """The law of couplings and injectors, squished by ``squish`` = α in [0, 1).

    ``sigmoid``: s = α + (1 − α)·sigmoid(raw + 2), in (α, 1); α = 0 is Glow's own, with α = 0.001.
    ``symmetric``: s = exp(−log α · tanh(raw)), in [α, 1/α]: the inverse is bounded by the same
    factor, and the forward direction may expand as well; needs α > 0.
    """
    if not 0 <= squish < 1:
        raise InputError(f"squish must lie in [0, 1), got {squish}")
    if squish_range == "sigmoid":
        floor = max(squish, FLOOR)
        return lambda raw: floor + (1 - floor) * torch.sigmoid(raw + 2)
    if squish_range == "symmetric":
        if squish == 0:
            raise InputError("squish_range symmetric needs squish above 0, such as 0.5")
        reach = -math.log(squish)
        return lambda raw: torch.exp(reach * torch.tanh(raw))
    raise InputError(f"squish_range is 'sigmoid' or 'symmetric', got {squish_range!r}")


LOG_SIGMA = (-10.0, 2.0)  # soft bounds of a prior's log-deviation


def whitening(raw: Tensor) -> Tensor:
    """s = exp(−log σ) of a learned prior, log σ ≈ raw held softly between the bounds `LOG_SIGMA`.

    A softplus at each end: close to the identity in between (−0.13 at raw = 0), never above 2, nor
    below −10 by more than rounding. The upper bound is what keeps the inverse, μ + σ·noise, finite
    on inputs the net has never seen.
    """
    low, high = LOG_SIGMA
    above = low + F.softplus(raw - low)
    log_sigma = high - F.softplus(high - above)
    return torch.exp(-log_sigma)
