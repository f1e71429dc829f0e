"""Pictures of many images, at rest and moving."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn.functional import pad

from cascade.utils.files import whole

GAP = 128  # the grey of the lines between images
TEXT, SPACE = 18, 8  # pixels: the font of names, and what is left free around them


def grid(images: Tensor, columns: int, least: int = 640) -> Image.Image:
    """One picture of uint8 images (N, C, H, W), ``columns`` to a row.

    Pixels are repeated until the picture is about ``least`` pixels wide.
    """
    columns = min(columns, len(images))
    tiles = pad(images.expand(-1, 3, -1, -1), (0, 1, 0, 1), value=GAP)
    tiles = pad(tiles, (0, 0, 0, 0, 0, 0, 0, -len(tiles) % columns), value=GAP)
    count, channels, height, width = tiles.shape
    rows = tiles.reshape(count // columns, columns, channels, height, width)
    joined = rows.permute(2, 0, 3, 1, 4).reshape(channels, -1, columns * width)
    joined = pad(joined, (1, 0, 1, 0), value=GAP)
    scale = max(1, round(least / joined.shape[2]))
    pixels = joined.permute(1, 2, 0).numpy().repeat(scale, 0).repeat(scale, 1)
    return Image.fromarray(np.ascontiguousarray(pixels))


def named(picture: Image.Image, names: Sequence[str]) -> Image.Image:
    """A grid with a name at the left of each of its rows."""
    font = ImageFont.load_default(TEXT)
    left = round(max(font.getlength(name) for name in names)) + 2 * SPACE
    canvas = Image.new("RGB", (left + picture.width, picture.height), "white")
    canvas.paste(picture, (left, 0))
    draw, height = ImageDraw.Draw(canvas), picture.height / len(names)
    for row, name in enumerate(names):
        draw.text((left - SPACE, (row + 0.5) * height), name, "black", font, "rm")
    return canvas


def save_grid(
    images: Tensor, file: str | Path, columns: int, names: Sequence[str] | None = None
) -> None:
    """Write uint8 images (N, C, H, W) as one picture, see `grid`; ``names`` stand before rows."""
    picture = grid(images, columns)
    with whole(file) as aside:
        (named(picture, names) if names else picture).save(aside)


def save_moving(frames: Sequence[Image.Image], file: str | Path, pause: int) -> None:
    """Write a WebP, or a GIF of 256 colours, that repeats for ever, ``pause`` ms a frame."""
    with whole(file) as aside:
        frames[0].save(
            aside, save_all=True, append_images=frames[1:], duration=pause, loop=0, lossless=True
        )
