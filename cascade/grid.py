"""Pictures of many images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from cascade.files import whole


def save_grid(images: Tensor, file: str | Path, columns: int, least: int = 640) -> None:
    """Write uint8 images (N, C, H, W) as one picture, ``columns`` to a row.

    Pixels are repeated until the picture is at least ``least`` pixels wide.
    """
    grid = make_grid(images, nrow=columns, padding=1, pad_value=128)
    scale = max(1, round(least / grid.shape[2]))
    pixels = grid.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    with whole(file) as aside:
        Image.fromarray(np.ascontiguousarray(pixels)).save(aside)
