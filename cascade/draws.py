"""What a walk up the stages of a cascade meets, and what sampling makes."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from cascade.stage import Stage


class Given(NamedTuple):
    """A stage, its number, and its integer images (N, C, h, w) with those of half the size."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    stage: Stage
    high: Tensor
    low: Tensor | None


class Generated(NamedTuple):
    """A stage, its number, the values ``y`` that it drew, and the integer ``image`` they make.

    ``clipped`` (N,) counts the values of each image that no image has.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    stage: Stage
    y: Tensor
    image: Tensor
    clipped: Tensor


class Draw(NamedTuple):
    """Samples at every resolution, base first, uint8 (N, C, h, w), and their ``labels``.

    ``finite`` (N,) says which were; ``clipped`` (N, stages) is the share of a stage's values that
    no image has, and were clipped; ``out_of_range`` (N, stages) how far the worst value lay outside
    the range of image values, in whole ranges.
    """

    images: list[Tensor]
    labels: Tensor | None
    finite: Tensor
    clipped: Tensor
    out_of_range: Tensor
