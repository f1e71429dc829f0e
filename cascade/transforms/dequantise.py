"""Between integers and the unit cube: v in 0..2ⁿ−1 becomes y = (v + u)/2ⁿ − ½.

Source: uniform dequantisation, Theis et al., A note on the evaluation of generative models (2016),
section 3.1, https://arxiv.org/abs/1511.01844
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dequantise(image: Tensor, noise: Tensor, bits: int = 8) -> Tensor:
    """y = (v + u)/2ⁿ − ½ in the noise's floating type, in [−½, ½) for pixels.

    Computed as (v − 2ⁿ⁻¹ + u)/2ⁿ, which is exact in float32 for pixels and details alike.
    """
    return (image.to(noise.dtype) - 2 ** (bits - 1) + noise) / 2**bits


def centre(image: Tensor, dtype: torch.dtype = torch.float32, bits: int = 8) -> Tensor:
    """The middle of each value's bin: `dequantise` with u = ½."""
    return dequantise(image, torch.full((), 0.5, dtype=dtype, device=image.device), bits)


def integers(y: Tensor, bits: int = 8) -> Tensor:
    """The integer whose bin y lies in, int32; what is not a number becomes the middle one."""
    values = torch.floor(torch.nan_to_num(y) * 2**bits) + 2 ** (bits - 1)
    return values.clamp(-(2**15), 2**15).to(torch.int32)


def quantise(y: Tensor, bits: int = 8) -> Tensor:
    """`integers` clipped to the pixel values 0..2ⁿ−1, as uint8."""
    return integers(y, bits).clamp(0, 2**bits - 1).to(torch.uint8)


def reduce_bits(image: Tensor, bits: int) -> Tensor:
    """The upper ``bits`` bits of 8-bit values: v → ⌊v/2^(8−n)⌋."""
    return image >> (8 - bits)


def expand_bits(image: Tensor, bits: int) -> Tensor:
    """0..2ⁿ−1 spread over 0..255; `reduce_bits` undoes it exactly."""
    return (image.to(torch.int32) * 255 // (2**bits - 1)).to(torch.uint8)


def log_volume(dimensions: int, bits: int = 8) -> float:
    """D·log 2ⁿ, in nats: what a density over y is divided by to give a probability of v."""
    return dimensions * bits * math.log(2)


def bits_per_dim(nats: Tensor, dimensions: int) -> Tensor:
    """−nats/(D·ln 2), for log-*probabilities* of integers (not densities)."""
    return -nats / (dimensions * math.log(2))


def density_bpd(nats: Tensor, y: Tensor, bits: int) -> Tensor:
    """Bits/dim of integers from log-densities (B,) of their dequantised y (B, C, H, W)."""
    return bits - nats / (y[0].numel() * math.log(2))
