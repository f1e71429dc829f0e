"""Colours for grey photos of any size: what a stage of kind colour draws given luma."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.photos.strips import labels_of
from cascade.stage import Stage
from cascade.transforms import colour
from cascade.transforms.dequantise import bits_per_dim, expand_bits, log_volume, reduce_bits
from cascade.utils.non_finite import check_some_finite
from cascade.utils.seeds import noise_window
from stages import InputError

VALUES = 24  # of a pixel that a stage holds at once, beside each channel of its nets


def check_colours(stage: Stage) -> None:
    """Raise `InputError` unless a stage models colours given luma."""
    if not stage.config.of_chroma:
        kind = stage.config.model.kind
        raise InputError(
            f"{stage.name} is of kind {kind}: colours come from a stage of kind colour"
        )


def unit(stage: Stage) -> int:
    """What the sides of images must be multiples of."""
    return 2 ** (stage.config.model.levels - 1)


def bytes_of(stage: Stage, height: int, width: int) -> int:
    """About how much memory an image takes while it is coloured."""
    channels = sum(
        getattr(stage.config.model, name) for name in ("encoder_features", "mixture_width", "width")
    )
    return 4 * (VALUES + 6 * channels) * height * width


@torch.no_grad()
def colourings(
    stage: Stage,
    luma: Tensor,
    count: int,
    label: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """Versions ``first`` to ``first + count`` of a seed of an image in colour, uint8 (n, 3, H, W).

    All have the luma that is given, uint8 (1, H, W), see `cascade.transforms.colour`. Noise
    belongs to the seed, the number of a version and the place of a pixel; ``label`` is the class
    that stages with classes take. Raises `InputError` where a label is missing, or none is finite.
    """
    check_colours(stage)
    bits, (height, width) = stage.config.data.bits, luma.shape[1:]
    right, below = -width % unit(stage), -height % unit(stage)
    low = F.pad(reduce_bits(luma, bits)[None].float(), (0, right, 0, below), mode="replicate")
    low = low.to(torch.uint8)
    rows, columns = (range(side) for side in low.shape[2:])
    alone, labels = stage.replace(chunk=1), labels_of(stage, label, 1)
    images = []
    for number in range(first, first + count):
        noise = temperature * noise_window(2, rows, columns, "colour", seed, number)
        y = alone.run(stage.flow.sample, noise[None], low, labels)
        check_some_finite(y)
        image, _ = stage.coding.image(y, low)
        images.append(expand_bits(image, bits)[0, :, :height, :width])
    return torch.stack(images)


@torch.no_grad()
def colours_bpd(stage: Stage, image: Tensor, label: int | None = None, seed: int = 0) -> float:
    """Bits per chroma value that an image's own colours, uint8 (3, H, W), take given its luma.

    Of rows and columns that the stage's levels do not divide, the last are left out.
    """
    check_colours(stage)
    bits = stage.config.data.bits
    height, width = (side - side % unit(stage) for side in image.shape[1:])
    if not height or not width:
        raise InputError(f"{stage.name} needs sides of {unit(stage)} pixels and more")
    image = reduce_bits(image, bits)[None, :, :height, :width]
    y = stage.coding.dequantise(image, seed, 0, 0)
    labels = labels_of(stage, label, 1)
    luma, _ = colour.split(image)
    nats = stage.replace(chunk=1).run(stage.flow.log_prob, y, luma, labels).double()
    return bits_per_dim(nats - log_volume(y.numel(), bits), y.numel()).item()
