"""Where an image's likelihood sits: its log-density split over pixels, and a picture of that."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from cascade.chain import Cascade
from cascade.utils.files import whole
from stages import Bijection, Flow
from stages.bijection import split
from stages.coupling import AffineCoupling, AffineInjector
from stages.prior import ClassPrior

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


def _has_log_det(module: nn.Module) -> bool:
    """Whether it adds a log-determinant of its own: a class prior, or a bijection of no others."""
    inner = [m for m in module.modules() if isinstance(m, Bijection)]
    return isinstance(module, ClassPrior) or inner == [module]


def _by_position(module: nn.Module, x: Tensor, cond: Any, log_det: Tensor) -> Tensor:
    """One module's log-determinant (B,) over the positions of its level, (B, h, w), in nats.

    Where a net predicts the scale s it is Σ_channels log s; elsewhere every position counts alike.
    """
    if isinstance(module, AffineInjector):
        return cond[1].log().sum(1)
    if isinstance(module, AffineCoupling):
        return module._shift_scale(split(x)[0], cond)[1].log().sum(1)
    height, width = x.shape[2:]
    return (log_det / (height * width))[:, None, None].expand(-1, height, width)


def _spread(values: Tensor, height: int) -> Tensor:
    """(B, h, w) → (B, H, W) of the same sum: each position's share evenly over its block."""
    factor = height // values.shape[1]
    return values.repeat_interleave(factor, 1).repeat_interleave(factor, 2) / factor**2


@torch.no_grad()
def nats_map(
    flow: Flow, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
) -> Tensor:
    """The log-density of images (B, C, H, W) split over their pixels, (B, H, W), in nats.

    Its sum over pixels is ``flow.log_prob(x, low, label)``. log N(z) sits where the noise sits,
    a log-determinant where the map that has it acts: at the positions of its level, then evenly
    over the pixels below each. A data-independent one (actnorm, 1×1, label) is the same everywhere.
    """
    parts = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        parts.append(_spread(_by_position(module, inputs[0], inputs[1], output[1]), x.shape[2]))

    with ExitStack() as hooks:
        for module in filter(_has_log_det, flow.modules()):
            hooks.enter_context(module.register_forward_hook(note))
        z, _ = flow.encode(x, low, label)
    log_normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return sum(parts, log_normal)


def spent(cascade: Cascade, images: Tensor, labels: Tensor | None, seed: int = 0) -> list[Tensor]:
    """Bits per position that each stage spends on full images (N, C, H, W), base first, (N, h, w).

    Each map's mean, divided by the channels of what the stage models (C pixels or 3C details), is
    the stage's own bits/dim of that image with its first dequantisation noise. Single positions may
    be negative: only the sum is bounded.
    """
    labels = cascade.needed_labels(labels, len(images))
    maps = []
    for i, stage, high, low in cascade.climb(images):
        y = stage.coding.dequantise(high, seed, i, draw=0)
        nats = stage.run(partial(nats_map, stage.flow), y, low, labels)
        maps.append(cascade.bits * y.shape[1] - nats.double() / math.log(2))
    return maps


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
