"""Super-resolution of images of any size: each stage doubles them, tile by tile.

A stage is convolutional, so it runs at any size that its levels divide. Tiles of one size see
``overlap`` more pixels on every side than they give, and share one field of noise, which belongs to
the seed and a pixel's position: so tiles agree wherever the net's view ends within the overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cascade.evaluation.image_metrics import psnr_between
from cascade.manifest import stage_folders
from cascade.photos.tiling import TILING, Tiling, mirrored, tiles_of
from cascade.stage import Stage, load_stage, per_stage
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.transforms.pyramid import pyramid
from cascade.utils.seeds import noise_window
from stages import InputError


def doubler_folders(
    folder: str | Path, factor: int, names: Sequence[str] | None = None
) -> list[Path]:
    """The stage folders that enlarge by ``factor``: a stage folder itself, or a cascade's last.

    ``names`` picks stages of the folder in place of those that `cascade.yaml` lists; one may be
    named twice. Raises `InputError` where there are too few.
    """
    count = factor.bit_length() - 1
    if factor < 2 or factor != 2**count:
        raise InputError(f"stages double, so the factor is 2, 4, 8, ..., not {factor}")
    result, _ = stage_folders(folder, names)
    if names and len(names) != count:
        raise InputError(f"factor {factor} takes {count} stages, --stages names {len(names)}")
    if len(result) < count:
        raise InputError(
            f"factor {factor} takes {count} stages, {folder} gives {len(result)}; "
            "--stages a,b names stages of a folder, the same one twice if need be"
        )
    return result[-count:]


def load_doublers(folders: Sequence[Path], device: str | torch.device = "cpu") -> list[Stage]:
    """Read stages that each double what the one before makes.

    Unlike a cascade's they are not held to sizes: a stage doubles images of any. Raises
    `InputError` where one is no SRFlow, or they differ in channels, bits or pyramid.
    """
    stages = [load_stage(folder, device).replace(chunk=1) for folder in folders]
    for stage in stages:
        if not stage.config.upsamples:
            raise InputError(f"{stage.name} is a Glow: it draws images, and cannot enlarge any")
        for section, key in (("data", "channels"), ("data", "bits"), ("model", "pyramid")):
            one, two = (getattr(getattr(s.config, section), key) for s in (stages[0], stage))
            if one != two:
                raise InputError(
                    f"{stages[0].name} has {key}={one}, but {stage.name} has {key}={two}"
                )
    return stages


def check(stages: Sequence[Stage], low: Tensor, label: int | None, tiling: Tiling) -> None:
    """Raise `InputError` for an image, a label or a tiling that the stages do not take."""
    channels = stages[0].shape[0]
    if low.dtype != torch.uint8 or low.ndim != 3 or len(low) != channels or not low.numel():
        raise InputError(
            f"{stages[0].name} takes uint8 images ({channels}, h, w), "
            f"got {low.dtype} {tuple(low.shape)}"
        )
    if label is not None and not any(stage.classes for stage in stages):
        raise InputError("a label was given, but no stage uses them")
    for i, stage in enumerate(stages):
        labels_of(stage, label, 1)
        tiling.check(stage, 2**i * max(low.shape[1:]))


def upscale(
    stages: Sequence[Stage],
    low: Tensor,
    num: int = 1,
    temperature: float | Sequence[float] = 0.8,
    seed: int = 0,
    label: int | None = None,
    tiling: Tiling = TILING,
    advance: Callable[[int], None] = lambda tiles: None,
) -> Tensor:
    """``num`` samples uint8 (num, C, f·h, f·w) of one image uint8 (C, h, w), f = 2^len(stages).

    ``temperature`` scales the noise, one number for all stages or one a stage. A sample depends on
    image, seed, its number, label, temperature and tiling; the noise on seed, number and position
    alone. One sample is made after the other, ``advance`` is told of every tile; there are
    ``num`` · `count_tiles`. Raises `InputError` for images and options that the stages do not take,
    and where a sample is not finite.
    """
    samples = []
    for sample in upscaling(stages, low, num, temperature, seed, label, tiling):
        if sample is None:
            advance(1)
        else:
            samples.append(sample)
    return torch.stack(samples)


@torch.no_grad()
def upscaling(
    stages: Sequence[Stage],
    low: Tensor,
    num: int = 1,
    temperature: float | Sequence[float] = 0.8,
    seed: int = 0,
    label: int | None = None,
    tiling: Tiling = TILING,
) -> Iterator[Tensor | None]:
    """The samples of `upscale` one by one, uint8 (C, f·h, f·w), and a None after every tile.

    So whoever goes through them can stop between any two tiles.
    """
    temperatures = per_stage(temperature, len(stages))
    bits = stages[0].config.data.bits
    if num < 1:
        raise InputError(f"draw at least one sample, not {num}")
    check(stages, low, label, tiling)
    for number in range(num):
        image = reduce_bits(low, bits)
        for i, (stage, scale) in enumerate(zip(stages, temperatures, strict=True)):
            image = yield from _doubled(stage, image, (seed, i, number), scale, label, tiling)
        yield expand_bits(image, bits)


def _doubled(
    stage: Stage,
    low: Tensor,
    key: tuple[int, ...],
    temperature: float,
    label: int | None,
    tiling: Tiling,
) -> Generator[None, None, Tensor]:
    """A low image (C, h, w) at twice its size, integers of the stage's bits, tile by tile."""
    channels, *size = low.shape
    margin = tiling.overlap // 2
    tiles, tall, wide = tiles_of(stage, size, tiling)
    doubled = low.new_empty(channels, 2 * size[0], 2 * size[1])
    for top, left in tiles:
        rows = range(top - margin, top + tall + margin)
        columns = range(left - margin, left + wide + margin)
        seen = low[:, mirrored(rows, size[0])][:, :, mirrored(columns, size[1])]
        noise = temperature * _noise(stage, rows, columns, key)
        made = _decoded(stage, noise[None], seen[None], label)[0]
        place = doubled[:, 2 * top : 2 * (top + tall), 2 * left : 2 * (left + wide)]
        inner = made[:, tiling.overlap :, tiling.overlap :]
        place.copy_(inner[:, : place.shape[1], : place.shape[2]])
        yield
    return doubled


def _noise(stage: Stage, rows: range, columns: range, key: tuple[int, ...]) -> Tensor:
    """The window of a sample's field that belongs to these rows and columns of the low image."""
    channels, side, _ = stage.flow.shape
    scale = 2 * side // stage.shape[1]  # 2, or 1 for details
    spans = [range(scale * span.start, scale * span.stop) for span in (rows, columns)]
    return noise_window(channels, *spans, *key)


def _decoded(stage: Stage, noise: Tensor, low: Tensor, label: int | None) -> Tensor:
    labels = labels_of(stage, label, len(noise))
    y = stage.run(stage.flow.sample, noise, low, labels)
    if not y.isfinite().all():
        raise InputError(f"{stage.name} gave values that are not finite; lower the temperature")
    return stage.coding.image(y, low)[0]


def labels_of(stage: Stage, label: int | None, count: int) -> Tensor | None:
    """One label for ``count`` images, None where the stage uses none; `InputError` if it lacks."""
    if not stage.classes:
        return None
    if label is None or not 0 <= label < stage.classes:
        raise InputError(f"{stage.name} is class-conditional: give a label 0..{stage.classes - 1}")
    return torch.full((count,), label)


def lowered(stages: Sequence[Stage], images: Tensor) -> Tensor:
    """8-bit images (…, H, W) halved as often as there are stages, by the stages' own pyramid."""
    config = stages[0].config
    bits = config.data.bits
    reduced = reduce_bits(images, bits)
    return expand_bits(pyramid(reduced, len(stages) + 1, bits, config.model.pyramid)[0], bits)


def low_psnr(stages: Sequence[Stage], image: Tensor, low: Tensor) -> float:
    """LR-PSNR in dB: that of the halved image against the low one, in the stages' bits."""
    bits = stages[0].config.data.bits
    return psnr_between(lowered(stages, image), expand_bits(reduce_bits(low, bits), bits))


def cropped(image: Tensor, factor: int) -> Tensor:
    """An image (…, H, W) without the last rows and columns that a whole factor leaves over."""
    tall, wide = (side // factor * factor for side in image.shape[-2:])
    if not tall or not wide:
        raise InputError(
            f"an image of {image.shape[-2]}x{image.shape[-1]} is too small for one {factor} times "
            "smaller"
        )
    return image[..., :tall, :wide]
