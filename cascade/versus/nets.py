"""The nets that a flow is held against: a generator that doubles images, and its discriminator.

Source: SRGAN, section 2.1 and figure 4, https://arxiv.org/abs/1609.04802, without batch
normalisation as ESRGAN, section 3.1, https://arxiv.org/abs/1809.00219.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.integers.support import upsampled


@dataclass(frozen=True)
class Shape:
    """How wide and deep a generator is.

    Attributes:
        width: channels of the trunk.
        hidden: inner channels of each residual block.
        closing: whether a convolution follows the blocks, before the sum with the first layer.
        fine: whether the last convolution sees the doubled image.
    """

    width: int
    hidden: tuple[int, ...]
    closing: bool
    fine: bool

    @property
    def field(self) -> int:
        """Low pixels, along a side, that a pixel of the result depends on.

        A 3×3 convolution of low images adds 2 of them, the one of the doubled image 1.
        """
        convolutions = 2 + 2 * len(self.hidden) + self.closing
        return 1 + 2 * convolutions + self.fine


class Block(nn.Module):
    """x + conv₂(relu(conv₁(x)))."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.one = nn.Conv2d(width, hidden, 3, padding=1)
        self.two = nn.Conv2d(hidden, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.two(F.relu(self.one(x)))


class Generator(nn.Module):
    """A low image (B, C, h, w) → the image (B, C, 2h, 2w), values in ±½.

    First convolution → residual blocks → convolution and pixel shuffle → last convolution, which is
    zero at first.

    Args:
        channels: C.
        shape: width and depth.
        residual: what is predicted is added to the cubic-upsampled low image.
    """

    def __init__(self, channels: int, shape: Shape, residual: bool = True):
        super().__init__()
        width, self.fine, self.residual = shape.width, shape.fine, residual
        self.first = nn.Conv2d(channels, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width, hidden) for hidden in shape.hidden))
        self.closing = nn.Conv2d(width, width, 3, padding=1) if shape.closing else nn.Identity()
        doubled = 4 * (width if shape.fine else channels)
        self.raised = nn.Conv2d(width, doubled, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1) if shape.fine else nn.Identity()
        final = self.last if shape.fine else self.raised
        for parameter in final.parameters():
            nn.init.zeros_(parameter)

    def forward(self, low: Tensor) -> Tensor:
        first = self.first(low.contiguous(memory_format=torch.channels_last))
        trunk = first + self.closing(self.blocks(first))
        doubled = F.pixel_shuffle(self.raised(trunk), 2)
        if self.fine:
            doubled = self.last(F.leaky_relu(doubled, 0.2))
        return doubled + upsampled(low) if self.residual else doubled


class Discriminator(nn.Module):
    """An image (B, C, H, W) → logits (B, H/4·W/4), one a patch: how real it looks.

    3×3 convolutions of ``width``, 2·width and 4·width channels, the last two of stride 2, and one
    to a single channel. It takes images of any size.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        widths = [channels, width, 2 * width, 4 * width]
        self.layers = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, stride, padding=1)
            for inner, outer, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
        )
        self.last = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        for layer in self.layers:
            image = F.leaky_relu(layer(image), 0.2)
        return self.last(image).flatten(1)


def even_split(total: int, parts: int) -> tuple[int, ...]:
    """A whole number as the sum of so many, none more than 1 from another, the larger ones first.

    >>> even_split(8, 3)
    (3, 3, 2)
    """
    return tuple(total // parts + (i < total % parts) for i in range(parts))
