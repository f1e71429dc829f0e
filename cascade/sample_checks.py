"""What samples are like beside their low images, and how often they are clipped."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from cascade.stage import Stage, StageList


def low_distances(images: Sequence[Tensor], stages: Sequence[Stage] | StageList) -> list[Tensor]:
    """|D(sample_i) − sample_{i−1}| in grey levels, float64 (N, C, h, w), for each stage but one."""
    return [
        (stage.lower(high).int() - low.int()).abs().double()
        for stage, (low, high) in zip(stages[1:], itertools.pairwise(images), strict=True)
    ]


def consistency(
    images: Sequence[Tensor], stages: Sequence[Stage] | StageList
) -> list[dict[str, float]]:
    """How far D(sample_i) is from sample_{i−1}: mean and worst in grey levels, share exact.

    ``images`` are those of all ``stages``, base first, integers (N, C, h, w) of n bits.
    """
    result = []
    for distance in low_distances(images, stages):
        result.append(
            {
                "mean": distance.mean().item(),
                "worst": distance.max().item(),
                "exact": (distance == 0).double().mean().item(),
            }
        )
    return result


def clip_rates(clipped: Tensor, names: Sequence[str]) -> dict[str, Any]:
    """How often samples are clipped, from the shares of their values (samples, stages).

    ``samples`` is the share, ``of`` so many, that have any such value: the mass that a Haar
    cascade's sampler moves onto the border of what images can be, and so how far its distribution
    is from the one that is scored. ``values`` is the share of each stage's values.
    """
    return {
        "of": len(clipped),
        "samples": (clipped > 0).any(1).double().mean().item(),
        "values": dict(zip(names, clipped.mean(0).tolist(), strict=True)),
    }


@dataclass
class SampleCheck:
    """What fresh samples of a cascade are like.

    ``consistency`` holds, for each stage but the first, how far its samples are from their low
    images, see `consistency`; ``clipped`` (M, stages) is the share of the values of each of M
    samples that no image has.
    """

    names: list[str]
    consistency: list[dict[str, float]]
    clipped: Tensor

    @property
    def clip_rates(self) -> dict[str, Any]:
        """How often they were clipped, see `clip_rates`."""
        return clip_rates(self.clipped, self.names)
