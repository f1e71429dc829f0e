"""Which integers an image can have: the range of each value, given those that came before it.

A detail's range follows from the S-transform of a pair of integers (a, b), l = ⌊(a + b)/2⌋ and
h = a − b: both are in 0..2ⁿ−1 where |h| ≤ min(2l + 1, 2(2ⁿ − 1 − l)). Source: Said and Pearlman, An
image multiresolution representation for lossless and lossy compression (1996),
https://doi.org/10.1109/83.535842
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def unlift(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The pair (a, b) of l and h, all of an integer type."""
    a = low + ((high + 1) >> 1)
    return a, a - high


def reach(low: Tensor, bits: int) -> Tensor:
    """The largest |h| that a pair of n-bit values with this l can have."""
    return torch.minimum(2 * low + 1, 2 * (2**bits - 1 - low))


def upsampled(low: Tensor) -> Tensor:
    """Bicubic interpolation (a = −0.5) of low images: (B, C, h, w) → (B, C, 2h, 2w)."""
    return F.interpolate(low, scale_factor=2, mode="bicubic", antialias=True)


class Support(ABC):
    """The order in which values are modelled, group after group, and the range of each.

    Values t (B, groups·C, h, w) are integers and a part of one, v + u, where the middle of the
    range of pixels, 2ⁿ⁻¹, is 0. Low images (B, C, h, w) are floats in [−½, ½), as a flow has them.

    Args:
        bits: n.
    """

    groups: int
    doublings: int  # ranges have at most 2 to the power of this many values
    relative: bool  # whether values are near what `anchors` gives

    def __init__(self, bits: int):
        self.bits = bits

    @abstractmethod
    def split(self, values: Tensor) -> list[Tensor]:
        """The groups (B, C, h, w), in their order."""

    @abstractmethod
    def join(self, groups: Sequence[Tensor]) -> Tensor:
        """The inverse of `split`."""

    @abstractmethod
    def by_position(self, values: Tensor) -> Tensor:
        """Sums of (B, groups·C, h, w) over the values of each position, one for each pixel."""

    @abstractmethod
    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The least and the greatest value of the next group, given those before it.

        They are (B, C, h, w), or (), on the device of ``like``.
        """

    def given(self, channels: int) -> int:
        """Channels of the low image of values of so many channels."""
        return channels

    @abstractmethod
    def anchors(self, low: Tensor) -> Tensor:
        """What values are near, (B, groups·C, h, w)."""


class PixelSupport(Support):
    """Pixels, squeezed: the four pixels of each 2×2 block one after the other, all in one range."""

    groups = 4

    def __init__(self, bits: int, relative: bool):
        super().__init__(bits)
        self.doublings, self.relative = bits, relative

    def split(self, values: Tensor) -> list[Tensor]:
        return list(values.unflatten(1, (-1, 4)).unbind(2))

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(groups), dim=2).flatten(1, 2)

    def by_position(self, values: Tensor) -> Tensor:
        return F.pixel_shuffle(values, 2).sum(1)

    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        half = like.new_full((), 2.0 ** (self.bits - 1), dtype=torch.float32)
        return -half, half - 1

    def anchors(self, low: Tensor) -> Tensor:
        middles = upsampled(low) * 2**self.bits  # of bins, half a value above the integers
        return F.pixel_unshuffle(middles - 0.5, 2)


class HoleSupport(PixelSupport):
    """Pixels of an image of which some are given: those have one possible value, the given one.

    So log P of a given pixel is 0, whatever the mixture, and the sum over all pixels is the
    log-probability of the others: each given all that are given, and those of the groups before its
    own. The low image is the image with one more channel, above 0 where a pixel is given, squeezed
    as the values are, (B, 4C + 4, h, w).
    """

    def __init__(self, bits: int):
        super().__init__(bits, relative=False)

    def given(self, channels: int) -> int:
        return 4 * (channels + 1)

    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert low is not None  # or nothing is given
        least, greatest = super().bounds(known, low, like)
        image, mask = low[:, :-4], low[:, -4:]
        value = self.split(torch.floor(image * 2**self.bits))[len(known)]
        given = self.split(mask)[len(known)] > 0
        least, greatest = (
            torch.where(given, value, bound.to(value)) for bound in (least, greatest)
        )
        return least, greatest

    def anchors(self, low: Tensor) -> Tensor:
        return torch.zeros_like(low[:, :-4])


class DetailSupport(Support):
    """Haar details: the row means' lh, then the upper and the lower row's own h.

    Each is within its pair's reach, which the values before it determine. (In the coordinates lh,
    hl, hh the range of one value would depend on the others.)
    """

    groups: int = 3
    relative = True

    def __init__(self, bits: int):
        super().__init__(bits)
        self.doublings = bits + 1

    def split(self, values: Tensor) -> list[Tensor]:
        return list(values.chunk(self.groups, dim=1))

    def join(self, groups: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(groups), dim=1)

    def by_position(self, values: Tensor) -> Tensor:
        return values.sum(1)

    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert low is not None  # or there are no details
        mean = torch.floor((low + 0.5) * 2**self.bits).to(torch.int32)
        if known:
            mean = unlift(mean, known[0].to(torch.int32))[self._next(len(known))]
        largest = reach(mean, self.bits).to(low.dtype)
        return -largest, largest

    def anchors(self, low: Tensor) -> Tensor:
        return torch.zeros_like(low).repeat(1, self.groups, 1, 1)

    def _next(self, known: int) -> int:
        """Which value of the first pair is the mean of the pair whose h comes next."""
        return known - 1


class ChromaSupport(DetailSupport):
    """Chroma given luma: Cg, then Co of YCoCg-R, at the resolution of the luma.

    Luma is the mean of green and of another mean t, that of red and blue; Cg and Co are the pairs'
    h. So Cg is within the reach of luma, and Co within that of t, which luma and Cg determine.
    Source: Malvar and Sullivan, YCoCg-R (2003), JVT-I014r3, see `cascade.transforms.colour`.
    """

    groups = 2

    def _next(self, known: int) -> int:
        return 1
