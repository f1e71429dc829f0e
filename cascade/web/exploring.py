"""What is near a sample: its other versions, the way to another sample, a region drawn again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from cascade.chain import Cascade
from cascade.evaluation.enlargements.ensembles import versions
from cascade.figures.heatmap import coloured
from cascade.figures.interpolation import between
from cascade.photos.latent_editing import blocks
from cascade.stage import per_stage
from cascade.transforms.dequantise import expand_bits
from cascade.utils.seeds import sample_noise, whole_number
from stages import InputError

FRAMES = 12  # of a way between two samples, both included
MOST = 16  # versions at once


@dataclass(frozen=True)
class Samples:
    """Images that a user looks at, uint8 (N, C, H, W), with their labels (N,) if there are any."""

    images: Tensor
    labels: Tensor | None

    def one(self, place: int) -> tuple[Tensor, Tensor | None]:
        """One of them, (1, C, H, W), and its label (1,)."""
        rows = slice(place, place + 1)
        return self.images[rows], None if self.labels is None else self.labels[rows]


def other_versions(
    cascade: Cascade,
    samples: Samples,
    place: int,
    kept: int,
    count: int,
    temperature: list[float],
    seed: int,
) -> tuple[Tensor, Tensor]:
    """Versions of a sample that keep its image of stage number ``kept``: details drawn again.

    The kept image (1, C, h, w), and the versions (count, C, H, W), uint8. ``seed`` is that of the
    samples: versions are of the next one. Raises `InputError` where no stage follows the kept one,
    or an argument is not as described.
    """
    if not 1 <= count <= MOST:
        raise InputError(f"draw 1 to {MOST} versions at once, not {count}")
    image, label = samples.one(place)
    low = expand_bits(cascade.levels(image)[kept], cascade.bits)
    other = whole_number(seed, "seed") + 1
    return low, versions(cascade, low, count, label, temperature, other)[-1][0]


def way(cascade: Cascade, samples: Samples, start: int, end: int) -> Tensor:
    """`FRAMES` images (FRAMES, C, H, W) through latent space, the samples themselves at its ends.

    Raises `InputError` where the two are one.
    """
    if start == end:
        raise InputError("choose two samples: a way leads from one to another")
    (first, label), (last, other) = samples.one(start), samples.one(end)
    shares = [i / (FRAMES - 1) for i in range(FRAMES)]
    frames = between(cascade, first, last, shares, label, other)
    noises = [torch.cat(parts) for parts in zip(*frames, strict=True)]
    return cascade.decode(noises, None if label is None else label.expand(FRAMES))


def region_around(row: int, column: int, side: int, shape: tuple[int, int, int]) -> Tensor:
    """A square of ``side`` pixels about one, bool (H, W), cut off at the image's borders."""
    _, height, width = shape
    region = torch.zeros(height, width, dtype=torch.bool)
    top, left = row - side // 2, column - side // 2
    region[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = True
    return region


@torch.no_grad()
def region_redrawn(
    cascade: Cascade,
    samples: Samples,
    place: int,
    number: int,
    region: Tensor,
    temperature: list[float],
    seed: int,
) -> Tensor:
    """A sample whose latents of stage ``number`` are drawn again in a region, (1, C, H, W).

    ``region`` is bool (H, W), of the full image's sides, and grows to whole blocks of the stage's
    latents, see `blocks`. All other latents stay as they are. ``seed`` is that of the samples: the
    region's latents are of the next one.
    """
    image, label = samples.one(place)
    stage = cascade.stages[number]
    noises = cascade.encode(image, label)
    inside = blocks(stage, adaptive_max_pool2d(region[None].float(), stage.shape[1:])[0] > 0)
    fresh = sample_noise(stage.flow.shape, whole_number(seed, "seed") + 1, number, 0, 1)
    scaled = per_stage(temperature, len(cascade.stages))[number] * fresh
    noises[number] = torch.where(inside, scaled.to(noises[number]), noises[number])
    return cascade.decode(noises, label)


def difference(one: Tensor, two: Tensor) -> Tensor:
    """How far two images uint8 (C, H, W) are apart, in grey levels, the mean of channels (H, W)."""
    return (one.double() - two.double()).abs().mean(0)


def as_colours(values: Tensor, side: int) -> Image.Image:
    """Values (H, W) from 0 to their largest as a picture about ``side`` pixels wide."""
    small = coloured(values, 0.0, max(1.0, values.max().item()))
    times = max(1, round(side / small.width))
    return small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
