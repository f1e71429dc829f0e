"""Halving by antialiased cubic interpolation, in integers.

Source: Keys, Cubic convolution interpolation for digital image processing (1981), with a = −½,
https://doi.org/10.1109/TASSP.1981.1163711
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TAPS = (-3, -9, 29, 111, 111, 29, -9, -3)  # cubic a = -0.5, antialiased by two, times 256


def _halve_last(x: Tensor) -> Tensor:
    """Weighted sums at every second place of the last axis, 256 times too large."""
    size = x.shape[-1]
    places = torch.arange(-3, size + 4, device=x.device).clamp(0, size - 1)
    padded = x[..., places]
    total: Any = sum(tap * padded[..., k : k + size : 2] for k, tap in enumerate(TAPS))
    return total


def halve(image: Tensor, bits: int = 8) -> Tensor:
    """D: half the size of an image (…, H, W) of integers in 0..2ⁿ−1, as uint8.

    Separable cubic interpolation with edge replication, rounded half up and clipped, in int32
    throughout, so that every device gives the same bits.
    """
    rows = _halve_last(image.to(torch.int32))
    both = _halve_last(rows.transpose(-1, -2)).transpose(-1, -2)
    return ((both + 2**15) >> 16).clamp(0, 2**bits - 1).to(torch.uint8)
