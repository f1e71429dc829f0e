"""The pyramid: every lower image is a function of the one above, in integers.

``kind`` is ``bicubic`` (`cascade.transforms.bicubic`) or ``haar`` (`cascade.transforms.haar`).
"""

from __future__ import annotations

from torch import Tensor

from cascade.transforms import bicubic, haar
from stages.errors import InputError

HALVINGS = {"bicubic": bicubic.halve, "haar": haar.halve}


def halve(image: Tensor, bits: int = 8, kind: str = "bicubic") -> Tensor:
    """D: an image (…, H, W) of integers in 0..2ⁿ−1 at half the size, as uint8.

    Raises `InputError` for an odd side.
    """
    height, width = image.shape[-2:]
    if height % 2 or width % 2:
        raise InputError(f"only even sides can be halved, got {height}x{width}")
    return HALVINGS[kind](image, bits)


def pyramid(image: Tensor, levels: int, bits: int = 8, kind: str = "bicubic") -> list[Tensor]:
    """The image (…, H, W) halved again and again: ``levels`` images, smallest first."""
    images = [image]
    for _ in range(levels - 1):
        images.append(halve(images[-1], bits, kind))
    return images[::-1]


def halve_to(image: Tensor, size: int, bits: int = 8, kind: str = "bicubic") -> Tensor:
    """Halve until the height is ``size``; `InputError` where no number of halvings leads there."""
    halvings = (image.shape[-2] // size).bit_length() - 1
    if image.shape[-2] != size << max(halvings, 0):
        raise InputError(f"images of height {image.shape[-2]} cannot be halved to {size}")
    return pyramid(image, halvings + 1, bits, kind)[0]
