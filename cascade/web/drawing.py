"""Samples that appear stage by stage, base first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cascade.chain import Cascade
from cascade.figures.grid import grid, named
from cascade.labels import label_named
from cascade.stage import Stage, per_stage
from cascade.transforms.dequantise import expand_bits
from cascade.utils.files import whole
from cascade.utils.non_finite import check_some_finite
from cascade.utils.seeds import sample_noise, whole_number
from stages import InputError

MOST = 160  # samples at once
WIDTH = 480  # of a picture, pixels, about


def labels_in_rows(cascade: Cascade, classes: Sequence[str], each: int) -> Tensor | None:
    """Labels of ``each`` samples of every class named, all if none is, int64; None without classes.

    Raises `InputError` for classes that there are not, and for more than `MOST` samples.
    """
    chosen = [label_named(name, cascade.class_names) for name in classes]
    chosen = chosen or list(range(cascade.classes))
    _check_count(each * max(1, len(chosen)))
    return torch.tensor(chosen).repeat_interleave(each) if cascade.classes else None


def _check_count(num: int) -> None:
    if not 1 <= num <= MOST:
        raise InputError(f"draw 1 to {MOST} images at once, not {num}: fewer images or classes")


@torch.no_grad()
def drawn_stages(
    cascade: Cascade,
    num: int,
    labels: Tensor | None,
    temperature: Sequence[float],
    seed: int,
) -> Iterator[Tensor]:
    """The samples of ``cascade.draw`` at each resolution as soon as they are made, uint8.

    Base first, (num, C, h, w). Raises `InputError` where an argument is not as described, and where
    no sample is finite.
    """
    _check_count(num)
    seed = whole_number(seed, "seed")
    temperatures = per_stage(temperature, len(cascade.stages))
    labels = cascade.needed_labels(labels, num)

    def drawn(i: int, stage: Stage, low: Tensor | None) -> Tensor:
        noise = temperatures[i] * sample_noise(stage.flow.shape, seed, i, 0, num)
        y = stage.run(stage.flow.sample, noise, low, labels)
        check_some_finite(y)
        return y

    for made in cascade.generate(drawn):
        yield expand_bits(made.image, cascade.bits)


def picture(images: Tensor, columns: int, names: Sequence[str] = ()) -> Image.Image:
    """A grid of uint8 images (N, C, h, w), with ``names`` before its rows if there are any."""
    result = grid(images, columns, WIDTH)
    return named(result, names) if names else result


def shown(image: Tensor, side: int = WIDTH) -> Image.Image:
    """One image uint8 (C, h, w), its pixels repeated until it is about ``side`` wide."""
    times = max(1, round(side / image.shape[2]))
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return Image.fromarray(pixels.repeat(times, 0).repeat(times, 1))


def save_npz(levels: Sequence[Tensor], labels: Tensor | None, file: Path) -> None:
    """Write samples: ``images`` (N, H, W, C), ``images_8`` and so on for smaller, ``labels``."""
    *below, last = (level.permute(0, 2, 3, 1).numpy() for level in levels)
    arrays: dict[str, Any] = {"images": last, **{f"images_{x.shape[1]}": x for x in below}}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    with whole(file) as aside, open(aside, "wb") as handle:
        np.savez_compressed(handle, **arrays)
