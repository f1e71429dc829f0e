"""A photo enlarged, tile by tile, and how far its samples differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.evaluation.enlargements.image_metrics import bicubic
from cascade.labels import label_named
from cascade.photos.photo import Photo
from cascade.photos.tiling import TILING, count_tiles
from cascade.photos.typicality import typicality
from cascade.photos.upscaling import upscaling
from cascade.stage import Stage
from cascade.utils.seeds import whole_number
from stages import InputError

SIDES = (32, 512)  # of what is enlarged, pixels: the least and the most
MOST = 8  # samples at once
FACTORS = (2, 4)


@dataclass(frozen=True)
class Progress:
    """So many tiles ``done`` of a ``total``, and the samples that are whole, uint8 (C, H, W)."""

    done: int
    total: int
    samples: list[Tensor]


def factors(doublers: Sequence[Stage]) -> list[int]:
    """By how much the stages of a model can enlarge."""
    return [factor for factor in FACTORS if factor <= 2 ** len(doublers)]


def stages_for(doublers: Sequence[Stage], factor: int) -> Sequence[Stage]:
    """The last stages of a model that together enlarge by ``factor``; `InputError` for others."""
    if factor not in factors(doublers):
        raise InputError(f"this model enlarges by {factors(doublers)}, not {factor}")
    return doublers[-(factor.bit_length() - 1) :]


def class_names(stages: Sequence[Stage]) -> list[str]:
    """Names of the stages' classes, [] if they have none."""
    return next((stage.class_names for stage in stages if stage.classes), [])


def enlarging(
    stages: Sequence[Stage],
    photo: Photo,
    num: int,
    temperature: float,
    seed: int,
    name: str | None = None,
) -> Iterator[Progress]:
    """Samples of a photo as they come; a step is a row of tiles, after which the work may be left.

    ``name`` is that of the class, for stages that have classes. Raises `InputError` for photos and
    arguments that the stages do not take, and where a sample is not finite.
    """
    if not 1 <= num <= MOST or max(photo.size) > SIDES[1]:
        raise InputError(f"at most {MOST} samples, of {SIDES[1]} pixels a side, are enlarged here")
    low, classes = photo.pixels(stages[0].shape[0]), class_names(stages)
    label = label_named(name or "", classes) if classes else None
    total = num * count_tiles(stages, *photo.size, TILING)
    done: list[int] = []  # tiles, as they were made
    samples: list[Tensor] = []
    seed = whole_number(seed, "seed")
    yield Progress(0, total, [])
    for sample in upscaling(stages, low, num, temperature, seed, label, advance=done.append):
        if sample is not None:
            samples.append(sample)
        yield Progress(sum(done), total, list(samples))


def cubic(stages: Sequence[Stage], photo: Photo) -> Photo:
    """The photo enlarged by cubic interpolation, as much as by the stages."""
    low = photo.pixels(stages[0].shape[0])
    return photo.enlarged(bicubic(low, 2 ** len(stages)))


def deviation(samples: Sequence[Tensor]) -> Tensor:
    """Standard deviation of samples in grey levels, root mean square of channels, (H, W)."""
    spread = torch.stack(list(samples)).double().var(0, correction=0)
    return spread.mean(0).sqrt()


def judgement(stages: Sequence[Stage], photo: Photo, name: str | None) -> str:
    """What the first stage thinks of the photo's own details, in a sentence."""
    classes = class_names(stages[:1])
    label = label_named(name or "", classes) if classes else None
    result = typicality(stages[0], photo.pixels(stages[0].shape[0]), label)
    if result is None:
        return f"The photo is too small for {stages[0].name} to judge."
    text = (
        f"The photo's own details take {result.bpd:.2f} bits/dim under {stages[0].name}, "
        f"{result.surprise:+.2f} beside samples."
    )
    if result.usual:
        return text
    more = "more" if result.surprise > 0 else "less"
    return f"{text} It lies far outside what the stage was trained on: it has {more} detail."
