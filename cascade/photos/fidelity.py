"""How near an enlarged image is to what it was made of, and to the truth, strip by strip."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cascade.evaluation.enlargements.image_metrics import bicubic, psnr
from cascade.photos.canvas import Pixels, spans
from cascade.stage import Stage
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.transforms.pyramid import pyramid
from stages import InputError

SEEN = 4  # low pixels beyond its own that a strip's halving or interpolation reads, at most


def lowered(stages: Sequence[Stage], images: Tensor) -> Tensor:
    """8-bit images (…, H, W) halved as often as there are stages, by the stages' own pyramid."""
    height = images.shape[-2] >> len(stages)
    return torch.cat([_lowered(stages, images, rows) for rows in spans(height)], dim=-2)


def low_psnr(stages: Sequence[Stage], image: Pixels, low: Tensor) -> float:
    """LR-PSNR in dB: that of the halved image against the low one, in the stages' bits."""
    bits = stages[0].config.data.bits
    return _psnr(
        lambda rows: _lowered(stages, image, rows),
        lambda rows: expand_bits(reduce_bits(low[:, rows.start : rows.stop], bits), bits),
        low.shape,
    )


def image_psnr(image: Pixels, truth: Tensor) -> float:
    """PSNR in dB of two images uint8 (C, H, W)."""
    return _psnr(lambda rows: _rows(image, rows), lambda rows: _rows(truth, rows), truth.shape)


def cubic_psnr(low: Tensor, truth: Tensor) -> float:
    """PSNR in dB of a low image's cubic interpolation, against the image uint8 (C, H, W)."""
    return _psnr(lambda rows: cubic(low, truth, rows), lambda rows: _rows(truth, rows), truth.shape)


def cubic(low: Tensor, like: Pixels, rows: range) -> Tensor:
    """Rows of the cubic interpolation of a low image (C, h, w) at the size of another."""
    factor = like.shape[1] // low.shape[1]
    first = max(0, rows.start // factor - SEEN)
    raised = bicubic(low[:, first : -(-rows.stop // factor) + SEEN], factor)
    return raised[:, rows.start - factor * first :][:, : len(rows)]


def cropped(image: Tensor, factor: int) -> Tensor:
    """An image (…, H, W) without the last rows and columns that a whole factor leaves over."""
    tall, wide = (side // factor * factor for side in image.shape[-2:])
    if not tall or not wide:
        raise InputError(
            f"an image of {image.shape[-2]}x{image.shape[-1]} is too small for one {factor} times "
            "smaller"
        )
    return image[..., :tall, :wide]


def _lowered(stages: Sequence[Stage], images: Pixels, rows: range) -> Tensor:
    """Rows of the low images of 8-bit images (…, H, W)."""
    config, factor = stages[0].config, 2 ** len(stages)
    first, bits = max(0, rows.start - SEEN), config.data.bits
    seen = images[..., factor * first : factor * (rows.stop + SEEN), :]
    low = pyramid(reduce_bits(seen, bits), len(stages) + 1, bits, config.model.pyramid)[0]
    return expand_bits(low[..., rows.start - first :, :][..., : len(rows), :], bits)


def _rows(image: Pixels, rows: range) -> Tensor:
    return image[:, rows.start : rows.stop]


def _psnr(
    one: Callable[[range], Tensor], two: Callable[[range], Tensor], shape: Sequence[int]
) -> float:
    """PSNR of two images whose rows two functions give; sums of squared integers are exact."""
    total = 0.0
    for rows in spans(shape[1]):
        total += (one(rows).double() - two(rows).double()).square().sum().item()
    return psnr(torch.tensor(total / (shape[0] * shape[1] * shape[2]), dtype=torch.float64)).item()
