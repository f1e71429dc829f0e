"""What a stage models: an image's pixels, or the details that its low image lacks.

Either way integers v, which `dequantise` makes continuous as y = (v + u)/2ⁿ − ½.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.transforms import colour, haar
from cascade.transforms.dequantise import centre, dequantise, integers
from cascade.transforms.pyramid import halve
from cascade.utils.seeds import generator, image_digest, image_noise


@dataclass
class Coding(ABC):
    """Images uint8 (B, C, H, W) of n ``bits`` ↔ what a stage's flow sees of them."""

    bits: int
    span: ClassVar[float]  # how much of y's range the values of images take up

    @abstractmethod
    def values(self, image: Tensor) -> Tensor:
        """The integers that the stage models, of its flow's shape."""

    @abstractmethod
    def image(self, y: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        """The image whose values' bins hold y, given what `condition` gives of it.

        Values that no image has are clipped; how many of each row's were, (B,), comes second.
        What is not finite is clipped too, to the middle value where it is not a number.
        """

    @abstractmethod
    def out_of_range(self, y: Tensor) -> Tensor:
        """How far the worst of each row's values lies outside its range, in whole ranges, (B,)."""

    def centre(self, image: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """y in the middle of each value's bin: u = ½."""
        return centre(self.values(image), dtype, self.bits)

    def dequantise(self, image: Tensor, seed: int, stage: int, draw: int) -> Tensor:
        """y with noise that belongs to each image and to nothing else, see `image_noise`."""
        values = self.values(image)
        noise = image_noise(image, values.shape[1:], seed, stage, draw)
        return dequantise(values, noise, self.bits)


class Pixels(Coding):
    """The image itself, within ±½."""

    span = 1.0

    def values(self, image: Tensor) -> Tensor:
        return image

    def image(self, y: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        values = integers(y, self.bits)
        image = values.clamp(0, 2**self.bits - 1).to(torch.uint8)
        return image, _changed(image, values, y)

    def out_of_range(self, y: Tensor) -> Tensor:
        return _out_of_range(y, 0.5)


class Details(Coding):
    """Integer Haar details (B, 3C, H/2, W/2), see `cascade.transforms.haar`, moved up by 2ⁿ⁻¹.

    So y = (d + u)/2ⁿ for a detail d, within ±2. Clipping never changes the low image.
    """

    span = 4.0
    rows: ClassVar[bool] = False
    reaches: ClassVar[tuple[float, ...]] = (1, 1, 2)  # of the three kinds, in y

    def values(self, image: Tensor) -> Tensor:
        return haar.split(image, self.rows)[1] + 2 ** (self.bits - 1)

    def image(self, y: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        values = integers(y, self.bits)
        assert low is not None  # no base is made of details
        image = haar.join(low, values - 2 ** (self.bits - 1), self.bits, self.rows)
        return image, _changed(self.values(image), values, y)

    def out_of_range(self, y: Tensor) -> Tensor:
        worst = [
            _out_of_range(part, reach)
            for part, reach in zip(y.chunk(3, dim=1), self.reaches, strict=True)
        ]
        return torch.stack(worst).amax(0)


class RowDetails(Details):
    """Details as lh and each row's own h, in an order in which every one's range is known.

    What a mixture is of, see `stages.integers.support.DetailSupport`: all within ±1 of y.
    """

    span = 2.0
    rows = True
    reaches = (1, 1, 1)


class Chroma(Coding):
    """Chroma (B, 2, H, W) of images (B, 3, H, W), see `cascade.transforms.colour`, up by 2ⁿ⁻¹.

    So y = (d + u)/2ⁿ for a chroma value d, within ±1. Clipping never changes luma.
    """

    span = 2.0

    def values(self, image: Tensor) -> Tensor:
        return colour.split(image)[1] + 2 ** (self.bits - 1)

    def image(self, y: Tensor, low: Tensor | None) -> tuple[Tensor, Tensor]:
        values = integers(y, self.bits)
        assert low is not None  # chroma is always given luma
        image = colour.join(low, values - 2 ** (self.bits - 1), self.bits)
        return image, _changed(self.values(image), values, y)

    def out_of_range(self, y: Tensor) -> Tensor:
        return _out_of_range(y, 1)


def _changed(one: Tensor, two: Tensor, y: Tensor) -> Tensor:
    return ((one != two) | ~y.isfinite()).flatten(1).sum(1)


def _out_of_range(y: Tensor, reach: float) -> Tensor:
    """The largest (|y| − reach)/(2·reach) of each row, not below 0."""
    worst = y.flatten(1).abs().nan_to_num(nan=math.inf).amax(1)
    return ((worst - reach) / (2 * reach)).clamp(min=0)


def coding(config: StageConfig) -> Coding:
    """What a stage of this configuration models."""
    if config.of_chroma:
        return Chroma(config.data.bits)
    if not config.of_details:
        return Pixels(config.data.bits)
    return (RowDetails if config.has_mixture else Details)(config.data.bits)


def condition(
    config: StageConfig, image: Tensor, sources: Sequence[torch.Generator] | None = None
) -> Tensor | None:
    """What a stage is given of integer images (B, C, H, W) that it models, themselves images.

    The image of half the size, its luma, or the image with a hole (see `with_hole`), of which each
    one's generator among ``sources`` draws the place, or, without, the image itself decides it;
    None where a stage is given nothing.
    """
    if config.hole:
        places = sources or [generator("hole", image_digest(one)) for one in image.cpu()]
        holes = [square(config.data.size, config.hole, source) for source in places]
        return with_hole(image, torch.stack(holes).to(image.device), config.data.bits)
    if config.upsamples:
        return halve(image, config.data.bits, config.model.pyramid)
    return colour.split(image)[0] if config.of_chroma else None


def with_hole(image: Tensor, hole: Tensor, bits: int = 8) -> Tensor:
    """Integer images (B, C, H, W) of which pixels are missing, and one more channel, the mask.

    ``hole`` (B, H, W) says which: they become 2ⁿ⁻¹. The mask is 2ⁿ − 1 where a pixel is given, 0
    in the hole, like the alpha channel of a picture.
    """
    hole = hole[:, None]
    mask = torch.where(hole, 0, 2**bits - 1).to(image.dtype)
    return torch.cat([image.masked_fill(hole, 2 ** (bits - 1)), mask], dim=1)


def square(size: int, side: int, source: torch.Generator) -> Tensor:
    """Where in an image (``size``, ``size``) a square hole is, whose place is drawn; bool."""
    top, left = torch.randint(size - side + 1, (2,), generator=source).tolist()
    hole = torch.zeros(size, size, dtype=torch.bool)
    hole[top : top + side, left : left + side] = True
    return hole


def condition_shape(config: StageConfig) -> tuple[int, int, int] | None:
    """The shape (C, h, w) of what a stage's encoder reads, None for a Glow."""
    data = config.data
    size = data.size // 2 if config.upsamples else data.size
    channels = 1 if config.of_chroma else data.channels + bool(config.hole)
    return (channels + config.augment.condition, size, size) if config.conditional else None
