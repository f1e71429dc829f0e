"""Between integers and the unit cube: v in 0..2ⁿ−1 becomes y = (v + u)/2ⁿ − ½."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def dequantise(image: Tensor, noise: Tensor, bits: int = 8) -> Tensor:
    """y = (v + u)/2ⁿ − ½ in [−½, ½), in the noise's floating type."""
    return (image.to(noise.dtype) + noise) / 2**bits - 0.5


def centre(image: Tensor, dtype: torch.dtype = torch.float32, bits: int = 8) -> Tensor:
    """The middle of each value's bin: `dequantise` with u = ½."""
    return (image.to(dtype) + 0.5) / 2**bits - 0.5


def quantise(y: Tensor, bits: int = 8) -> Tensor:
    """The bin y lies in, clipped to 0..2ⁿ−1, as uint8; what is not a number becomes mid-grey."""
    values = torch.floor((torch.nan_to_num(y) + 0.5) * 2**bits)
    return values.clamp(0, 2**bits - 1).to(torch.uint8)


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
