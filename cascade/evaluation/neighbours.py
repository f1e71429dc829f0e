"""The training images nearest to given ones, to see whether a model remembers instead of draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.data.sources import ImageSource

BLOCK = 256  # training images held at once


@dataclass
class Neighbours:
    """The k nearest images of a source for each of N given ones, nearest first, each (N, k).

    ``distance`` is the root of the mean squared difference over all C·H·W values, in grey levels of
    0..255; ``index`` the place in the source.
    """

    distance: Tensor
    index: Tensor

    @property
    def standing_out(self) -> Tensor:
        """The nearest one's distance as a share of the last one's, (N,): 0 for a copy."""
        return (self.distance[:, 0] / self.distance[:, -1]).nan_to_num(nan=0.0)


def neighbours(
    cascade: Cascade, images: Tensor, source: ImageSource, count: int = 1, mirrored: bool = False
) -> Neighbours:
    """The ``count`` images of a source nearest to uint8 images (N, C, H, W), by their pixels.

    The source's images are brought to the cascade's size as in training, and read in blocks. With
    ``mirrored`` their mirror images count as they do. Squared distances are sums of whole numbers
    in float64, so equal images are at 0 exactly, and of equally near ones the first counts.
    """
    sides = [side.double().flatten(1) for side in (images, images.flip(3))[: 1 + mirrored]]
    distance = sides[0].new_empty(len(images), 0)
    index = torch.empty(len(images), 0, dtype=torch.int64)
    for block in torch.arange(len(source)).split(BLOCK):
        others = cascade.resize(source.read(block)).double().flatten(1)
        result = torch.stack([torch.cdist(side, others) for side in sides]).amin(0)
        distance = torch.cat([distance, result], dim=1)
        index = torch.cat([index, block.expand(len(images), -1)], dim=1)
        distance, order = distance.sort(dim=1, stable=True)
        distance, index = distance[:, :count], index.gather(1, order)[:, :count]
    return Neighbours(distance / images[0].numel() ** 0.5, index)
