"""Many high images for one low image: what the stages above it draw."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.stage import Stage, per_stage
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.utils.non_finite import check_some_finite
from cascade.utils.seeds import sample_noise
from stages import InputError


def level_of(cascade: Cascade, size: int) -> int:
    """The stage that makes images of this size, as a place in the cascade.

    Raises `InputError` where none does, or where no stage follows it.
    """
    below = [stage.shape[1] for stage in cascade.stages[:-1]]
    if not below:
        raise InputError(f"no stage follows {cascade.stages[0].name}: give a cascade of several")
    if size not in below:
        known = " or ".join(f"{side}x{side}" for side in below)
        raise InputError(f"low images of this cascade are {known}, not {size}x{size}")
    return below.index(size)


@torch.no_grad()
def versions(
    cascade: Cascade,
    low: Tensor,
    count: int,
    labels: Tensor | Sequence[int] | None = None,
    temperature: float | Sequence[float] = 1.0,
    seed: int = 0,
    first: int | None = None,
) -> list[Tensor]:
    """``count`` high images of each low one, uint8 (N, count, C, h, w) for every stage above it.

    ``low`` is uint8 (N, C, h, w), of a size that some stage makes but the last, or the part of an
    image that a stage is given which stands alone; ``temperature`` is one number, or one for each
    stage of the whole cascade. A version depends on its low image, label, temperature, seed and
    number alone. All low images share the noise of each number 0..count − 1, unless ``first`` is
    given: those of the k-th have the numbers from first + k·count on, and no two share any. Raises
    `InputError` where none is finite.
    """
    start = 0 if cascade.given else level_of(cascade, low.shape[-1]) + 1
    labels = cascade.needed_labels(labels, len(low))
    labels = None if labels is None else labels.repeat_interleave(count)
    temperatures = per_stage(temperature, len(cascade.stages))

    def drawn(i: int, stage: Stage, given: Tensor | None) -> Tensor:
        if first is None:
            noise = sample_noise(stage.flow.shape, seed, i, 0, count).repeat(len(low), 1, 1, 1)
        else:
            noise = sample_noise(stage.flow.shape, seed, i, first, count * len(low))
        y = stage.run(stage.flow.sample, temperatures[i] * noise, given, labels)
        check_some_finite(y)
        return y

    made = cascade.generate(drawn, reduce_bits(low, cascade.bits), start)
    return [
        expand_bits(result.image, cascade.bits).unflatten(0, (len(low), count)) for result in made
    ]
