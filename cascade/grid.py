"""Pictures of many images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from cascade.files import whole

GAP = 128  # the grey of the lines between images


def save_grid(images: Tensor, file: str | Path, columns: int, least: int = 640) -> None:
    """Write uint8 images (N, C, H, W) as one picture, ``columns`` to a row.

    Pixels are repeated until the picture is at least ``least`` pixels wide.
    """
    columns = min(columns, len(images))
    tiles = pad(images.expand(-1, 3, -1, -1), (0, 1, 0, 1), value=GAP)
    tiles = pad(tiles, (0, 0, 0, 0, 0, 0, 0, -len(tiles) % columns), value=GAP)
    count, channels, height, width = tiles.shape
    rows = tiles.reshape(count // columns, columns, channels, height, width)
    grid = rows.permute(2, 0, 3, 1, 4).reshape(channels, -1, columns * width)
    grid = pad(grid, (1, 0, 1, 0), value=GAP)
    scale = max(1, round(least / grid.shape[2]))
    pixels = grid.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    with whole(file) as aside:
        Image.fromarray(np.ascontiguousarray(pixels)).save(aside)
