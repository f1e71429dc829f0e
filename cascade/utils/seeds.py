"""Randomness as a function of what it is for, never of a generator's history."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import torch
from torch import Tensor

from stages import InputError


def generator(*parts: object) -> torch.Generator:
    """A CPU generator seeded by the SHA-256 of ``parts`` (numbers, strings, bytes)."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def whole_number(value: Any, name: str) -> int:
    """A seed, or another whole number, of any type that stands for one; else `InputError`.

    Equal numbers of different types must not draw different noise.
    """
    try:
        return int(operator.index(value))
    except TypeError:
        raise InputError(f"{name} is a whole number, got {value!r}") from None


def uniform(shape: tuple[int, ...], source: torch.Generator) -> Tensor:
    """Uniform noise in (0, 1) as (j + ½)/2¹⁴: v + u is exact in float32 for |v| < 512."""
    return (torch.randint(0, 2**14, shape, generator=source) + 0.5) / 2**14


def image_digest(image: Tensor) -> str:
    """SHA-256 of an image's bytes."""
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def image_noise(images: Tensor, shape: tuple[int, ...], seed: int, stage: int, draw: int) -> Tensor:
    """Dequantisation noise (B, *shape) that belongs to each image and to nothing else."""
    return torch.stack(
        [uniform(shape, generator(seed, stage, draw, image_digest(i))) for i in images.cpu()]
    )


def sample_noise(shape: tuple[int, ...], seed: int, stage: int, first: int, count: int) -> Tensor:
    """Standard normal noise (count, *shape) of samples first, first + 1, … of one stage."""
    return torch.stack(
        [
            torch.randn(shape, generator=generator("sample", seed, stage, index))
            for index in range(first, first + count)
        ]
    )


BLOCK = 64  # side of the squares that a noise field is drawn in


def noise_window(channels: int, rows: range, columns: range, *parts: object) -> Tensor:
    """A window (channels, len(rows), len(columns)) of a boundless field of standard normal noise.

    A value is a function of ``parts`` and its position alone, whichever window it is seen through.
    """
    down, across = (range(span.start // BLOCK, -(-span.stop // BLOCK)) for span in (rows, columns))
    blocks = [
        torch.cat([_noise_block(channels, i, j, *parts) for j in across], dim=2) for i in down
    ]
    top, left = rows.start - down.start * BLOCK, columns.start - across.start * BLOCK
    return torch.cat(blocks, dim=1)[:, top : top + len(rows), left : left + len(columns)]


def _noise_block(channels: int, row: int, column: int, *parts: object) -> Tensor:
    source = generator("field", *parts, row, column)
    return torch.randn((channels, BLOCK, BLOCK), generator=source)
