"""What lossless image files need for the same images: the figures bits/dim is compared with."""

from __future__ import annotations

import io
from typing import Any

import torch
from PIL import Image
from torch import Tensor

SETTINGS: dict[str, dict[str, Any]] = {
    "PNG": {"optimize": True},
    "WebP": {"lossless": True, "quality": 100, "method": 6},
}


def file_bpd(images: Tensor, codec: str) -> Tensor:
    """Bits/dim of each image (B, C, H, W) as a file of its own, headers included, (B,)."""
    result = []
    for image in images:
        pixels = image.permute(1, 2, 0).squeeze(2).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, codec, **SETTINGS[codec])
        result.append(8 * file.tell() / image.numel())
    return torch.tensor(result, dtype=torch.float64)
