"""The integer Haar pyramid: an image ↔ its low image and details, without loss.

The S-transform of a pair (a, b) of integers is l = ⌊(a + b)/2⌋, h = a − b. Along rows, then along
columns, it turns an image (…, C, 2h, 2w) of n-bit values into a low image (…, C, h, w), again of
n-bit values, and details (…, 3C, h, w): lh and hl within ±(2ⁿ − 1), hh within ±2(2ⁿ − 1).
Source: Said and Pearlman, An image multiresolution representation for lossless and lossy
compression (1996), https://doi.org/10.1109/83.535842
"""

from __future__ import annotations

import torch
from torch import Tensor

from stages.integers.support import reach, unlift


def lift(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """l and h of pairs (a, b), the inverse of `unlift`."""
    return (a + b) >> 1, a - b


def within_reach(high: Tensor, low: Tensor, bits: int) -> Tensor:
    """``high`` clipped to ± `reach`: then both values of the pair fit n bits."""
    largest = reach(low, bits)
    return high.clamp(-largest, largest)


def split(image: Tensor, rows: bool = False) -> tuple[Tensor, Tensor]:
    """An image (…, C, 2h, 2w) of integers → low uint8 (…, C, h, w), details int16 (…, 3C, h, w).

    Details hold lh (rows' means, change down the columns), hl and hh of all channels, in turn; or,
    by ``rows``, lh and the upper and the lower row's own h, of which hl and hh are the transform.
    """
    x = image.to(torch.int32)
    low, high = lift(x[..., 0::2], x[..., 1::2])
    ll, lh = lift(low[..., 0::2, :], low[..., 1::2, :])
    pair = high[..., 0::2, :], high[..., 1::2, :]
    details = torch.cat([lh, *(pair if rows else lift(*pair))], dim=-3)
    return ll.to(torch.uint8), details.to(torch.int16)


def join(low: Tensor, details: Tensor, bits: int = 8, rows: bool = False) -> Tensor:
    """The image uint8 (…, C, 2h, 2w) of a low image and details: the inverse of `split`.

    Details that would leave 0..2ⁿ−1 are clipped, pair by pair, so that the image's low image is
    always ``low``; valid ones are never changed.
    """
    ll = low.to(torch.int32)
    lh, upper, lower = details.to(torch.int32).chunk(3, dim=-3)
    lows = unlift(ll, within_reach(lh, ll, bits))
    highs = (upper, lower) if rows else unlift(upper, lower)
    lines = []
    for row_low, row_high in zip(lows, highs, strict=True):
        pair = unlift(row_low, within_reach(row_high, row_low, bits))
        lines.append(torch.stack(pair, dim=-1).flatten(-2))
    return torch.stack(lines, dim=-2).flatten(-3, -2).to(torch.uint8)


def halve(image: Tensor, bits: int = 8) -> Tensor:
    """The low image alone, uint8; n bits stay n bits."""
    return split(image)[0]
