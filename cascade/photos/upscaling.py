"""Super-resolution of images of any size: each stage doubles them, tile by tile.

A stage is convolutional, so it runs at any size that its levels divide. Tiles of one size see
``overlap`` more pixels on every side than they give, and share one field of noise, which belongs to
the seed and a pixel's position: so tiles agree wherever the net's view ends within the overlap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cascade.manifest import stage_folders
from cascade.photos.canvas import Canvas
from cascade.photos.strips import (
    Decode,
    Sample,
    TileDecoder,
    labels_of,
    strips,
    whole_strips,
)
from cascade.photos.tiling import TILING, Tiling, count_tiles
from cascade.stage import Stage, load_stage, per_stage
from cascade.transforms.dequantise import expand_bits, reduce_bits
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
    stages = [load_stage(folder, device) for folder in folders]
    for stage in stages:
        if not stage.config.upsamples:
            kind = stage.config.model.kind
            others = "take a smaller factor, or name stages that do by --stages"
            hint = f"csrflow {kind} is its command" if stage.given else others
            raise InputError(f"{stage.name} is of kind {kind}, and cannot enlarge images: {hint}")
        for section, key in (("data", "channels"), ("data", "bits"), ("model", "pyramid")):
            one, two = (getattr(getattr(s.config, section), key) for s in (stages[0], stage))
            if one != two:
                raise InputError(
                    f"{stages[0].name} has {key}={one}, but {stage.name} has {key}={two}"
                )
    return stages


def load_decoder(folders: Sequence[Path], device: str) -> TileDecoder:
    """What makes tiles with the stages of these folders, in another process."""
    return TileDecoder(load_doublers(folders, device))


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
    and where a sample is not finite. `enlarge` makes a sample on disk.
    """
    made = upscaling(stages, low, num, temperature, seed, label, tiling, advance)
    return torch.stack([sample for sample in made if sample is not None])


@torch.no_grad()
def upscaling(
    stages: Sequence[Stage],
    low: Tensor,
    num: int = 1,
    temperature: float | Sequence[float] = 0.8,
    seed: int = 0,
    label: int | None = None,
    tiling: Tiling = TILING,
    advance: Callable[[int], None] = lambda tiles: None,
) -> Iterator[Tensor | None]:
    """The samples of `upscale` one by one, uint8 (C, f·h, f·w), and a None after each row of tiles.

    So whoever goes through them can stop between any two rows.
    """
    temperatures = per_stage(temperature, len(stages))
    bits = stages[0].config.data.bits
    if num < 1:
        raise InputError(f"draw at least one sample, not {num}")
    check(stages, low, label, tiling)
    decode = TileDecoder(stages).map
    for number in range(num):
        image, sample = reduce_bits(low, bits), Sample(seed, number, temperatures, label)
        for i in range(len(stages)):
            rows = []
            for row in strips(stages, i, image, sample, tiling, decode, advance=advance):
                rows.append(row)
                yield None
            image = torch.cat(rows, dim=1)
        yield expand_bits(image, bits)


def enlarge(
    stages: Sequence[Stage],
    low: Tensor,
    sample: Sample,
    folder: Path,
    tiling: Tiling,
    decode: Decode,
    advance: Callable[[int], None] = lambda tiles: None,
) -> Canvas:
    """One sample of `upscale` as a file of ``folder``, made as far as it is not there already.

    At no time more than a strip of tiles is held, of each of the tasks under way; images between
    two stages are files as well, and go when the next one is there. ``decode`` runs what of
    `TileDecoder` a tile takes, in other processes maybe.
    """
    bits = stages[0].config.data.bits
    channels, height, width = low.shape
    canvases = [
        Canvas(folder / f"{sample.number}-{i}", (channels, height << i + 1, width << i + 1))
        for i in range(len(stages))
    ]
    last = len(stages) - 1
    start = max((i for i, canvas in enumerate(canvases) if canvas.done), default=0)
    advance(count_tiles(stages[:start], height, width, tiling))
    for i in range(start, len(stages)):
        image = canvases[i - 1] if i else reduce_bits(low, bits)
        done = whole_strips(stages[i], image, canvases[i], tiling)
        for strip in strips(stages, i, image, sample, tiling, decode, done, advance):
            canvases[i].append(expand_bits(strip, bits) if i == last else strip)
        if i:
            canvases[i - 1].file.unlink(missing_ok=True)
    return canvases[last]
