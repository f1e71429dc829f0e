"""A picture of where images' bits are spent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from cascade.utils.files import whole

# dark to bright, in even steps of lightness
RAMP = np.array(
    [
        [9, 12, 46],
        [72, 22, 112],
        [149, 38, 125],
        [215, 74, 92],
        [238, 135, 70],
        [250, 198, 100],
        [253, 252, 222],
    ]
)
TILE, GAP, TEXT, BESIDE = 160, 8, 14, 110  # pixels: least tile width, spacing, font, row labels


def coloured(values: Tensor, low: float, high: float) -> Image.Image:
    """Values (h, w) as colours of the ramp: ``low`` is darkest, ``high`` brightest."""
    place = (values.double() - low) / max(high - low, 1e-12) * (len(RAMP) - 1)
    channels = [np.interp(place.cpu().numpy(), range(len(RAMP)), colour) for colour in RAMP.T]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def save_heatmaps(
    images: Tensor, maps: Sequence[Tensor], names: Sequence[str], bpd: Tensor, file: str | Path
) -> None:
    """Write one picture, a row an image: the image, each stage's map, the image's bits/dim.

    ``images`` is uint8 (N, C, H, W) at full resolution; ``maps`` holds, for each of ``names``,
    bits per pixel (N, h, w) at that stage's own size; ``bpd`` is (N,). All maps share one colour
    scale, which the legend below the rows names: it ends at the values that one pixel in a hundred
    lies beyond, since a single pixel can cost a thousand times as much as the others.
    """
    values = torch.cat([m.double().flatten().cpu() for m in maps])
    low, high = (values.quantile(q).item() for q in (0.005, 0.995))
    scale = math.ceil(TILE / images.shape[3])
    width, height = images.shape[3] * scale, images.shape[2] * scale
    across, down, header = width + GAP, height + GAP, TEXT + 2 * GAP
    left, right = GAP + across, GAP + across * (len(maps) + 1)  # of the maps' columns
    bottom = header + down * len(images)
    canvas = Image.new("RGB", (right + BESIDE, bottom + 2 * header), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(TEXT)

    def write(x: float, y: float, text: str, anchor: str) -> None:
        draw.text((x, y), text, "black", font, anchor)

    for i, title in enumerate(["image", *names]):
        write(GAP + i * across + width / 2, header / 2, title, "mm")
    for row, image in enumerate(images):
        pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
        tiles = [Image.fromarray(pixels), *(coloured(m[row], low, high) for m in maps)]
        for i, tile in enumerate(tiles):
            enlarged = tile.resize((width, height), Image.Resampling.NEAREST)
            canvas.paste(enlarged, (GAP + i * across, header + row * down))
        write(right, header + row * down + height / 2, f"{bpd[row]:.3f} bits/dim", "lm")
    bar = coloured(torch.linspace(low, high, right - GAP - left)[None], low, high)
    canvas.paste(bar.resize((bar.width, TEXT)), (left, bottom + GAP))
    write(left - GAP, bottom + GAP + TEXT / 2, "bits per pixel", "rm")
    write(left, bottom + header, f"{low:.2f} or less", "la")
    write(right - GAP, bottom + header, f"{high:.2f} or more (up to {values.max():.2f})", "ra")
    with whole(file) as aside:
        canvas.save(aside)
