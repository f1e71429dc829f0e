"""The bicubic pyramid: every lower level is a function of the level above, in integers."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.errors import InputError

TAPS = (-3, -9, 29, 111, 111, 29, -9, -3)  # cubic a = -0.5, antialiased by two, times 256


def _halve_last(x: Tensor) -> Tensor:
    """Weighted sums at every second place of the last axis, 256 times too large."""
    size = x.shape[-1]
    places = torch.arange(-3, size + 4, device=x.device).clamp(0, size - 1)
    padded = x[..., places]
    return sum(tap * padded[..., k : k + size : 2] for k, tap in enumerate(TAPS))


def halve(image: Tensor, bits: int = 8) -> Tensor:
    """D: half the size of an image (…, H, W) of integers in 0..2ⁿ−1, as uint8.

    Separable cubic interpolation with edge replication, rounded half up and clipped, in int32
    throughout, so that every device gives the same bits. Raises `InputError` for an odd side.
    """
    height, width = image.shape[-2:]
    if height % 2 or width % 2:
        raise InputError(f"only even sides can be halved, got {height}x{width}")
    rows = _halve_last(image.to(torch.int32))
    both = _halve_last(rows.transpose(-1, -2)).transpose(-1, -2)
    return ((both + 2**15) >> 16).clamp(0, 2**bits - 1).to(torch.uint8)


def pyramid(image: Tensor, levels: int, bits: int = 8) -> list[Tensor]:
    """The image (…, H, W) halved again and again: ``levels`` images, smallest first."""
    images = [image]
    for _ in range(levels - 1):
        images.append(halve(images[-1], bits))
    return images[::-1]


def halve_to(image: Tensor, size: int, bits: int = 8) -> Tensor:
    """Halve until the height is ``size``; `InputError` where no number of halvings leads there."""
    halvings = (image.shape[-2] // size).bit_length() - 1
    if image.shape[-2] != size << max(halvings, 0):
        raise InputError(f"images of height {image.shape[-2]} cannot be halved to {size}")
    return pyramid(image, halvings + 1, bits)[0]
