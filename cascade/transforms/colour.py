"""Red, green and blue ↔ luma and two chroma values, integers, without loss: YCoCg-R.

It is the S-transform of a pair (`cascade.transforms.haar`) twice over: (R, B) becomes their mean
t = ⌊(R + B)/2⌋ and Co = R − B, and (G, t) becomes luma Y = ⌊(G + t)/2⌋ and Cg = G − t. So luma of
n-bit colours is n-bit, and the chroma that it admits is known: |Cg| is within the reach of Y, then
|Co| within that of t = Y − ⌊Cg/2⌋. Source: Malvar and Sullivan, YCoCg-R: A color space with RGB
reversibility and low dynamic range (2003), JVT-I014r3; Malvar et al., Lifting-based reversible
color transformations for image compression (2008), https://doi.org/10.1117/12.797091
"""

from __future__ import annotations

import torch
from torch import Tensor

from cascade.transforms.haar import lift, within_reach
from stages.integers.support import unlift


def split(image: Tensor) -> tuple[Tensor, Tensor]:
    """An image (…, 3, H, W) of integers → luma uint8 (…, 1, H, W), (Cg, Co) int16 (…, 2, H, W)."""
    red, green, blue = image.to(torch.int32).split(1, dim=-3)
    middle, orange = lift(red, blue)
    luma, green = lift(green, middle)
    return luma.to(torch.uint8), torch.cat([green, orange], dim=-3).to(torch.int16)


def join(luma: Tensor, chroma: Tensor, bits: int = 8) -> Tensor:
    """The image uint8 (…, 3, H, W) of luma and chroma: the inverse of `split`.

    Chroma that no n-bit colour of this luma has is clipped, so that the image's luma is always
    ``luma``; valid one is never changed.
    """
    y = luma.to(torch.int32)
    high, orange = chroma.to(torch.int32).split(1, dim=-3)
    green, middle = unlift(y, within_reach(high, y, bits))
    red, blue = unlift(middle, within_reach(orange, middle, bits))
    return torch.cat([red, green, blue], dim=-3).to(torch.uint8)
