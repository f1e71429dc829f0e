"""A stage doubles an image strip by strip, a row of tiles each; tiles may be made elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.photos.canvas import Canvas, Pixels
from cascade.photos.tiling import Tiling, mirrored, tiles_of
from cascade.stage import Stage
from cascade.utils.seeds import noise_window
from stages import InputError

AT_ONCE = 2**20  # enlarged pixels that a GPU sees at once, ten tiles of the usual size


@dataclass(frozen=True)
class Sample:
    """What a sample of an image is, beside image and stages: one temperature for each of them."""

    seed: int
    number: int
    temperatures: Sequence[float]
    label: int | None = None


@dataclass(frozen=True)
class Tiles:
    """Tiles side by side, which a stage sees at once.

    Rows and columns are those of the low image, ``margin`` more on every side than the tiles give;
    ``seen`` (n, C, h, w) is what is there, integers of the stage's bits.
    """

    stage: int
    sample: Sample
    rows: range
    columns: Sequence[range]
    margin: int
    seen: np.ndarray[Any, Any]


Decode = Callable[[Iterable[Tiles]], Iterator[np.ndarray[Any, Any]]]  # (n, C, 2·h, 2·w), in order


class TileDecoder:
    """Makes the doubled tiles, integers of the stages' bits, in this process."""

    def __init__(self, stages: Sequence[Stage]):
        self.stages = stages

    @torch.no_grad()
    def __call__(self, tiles: Tiles) -> np.ndarray[Any, Any]:
        sample, low = tiles.sample, torch.from_numpy(tiles.seen)
        stage = self.stages[tiles.stage].replace(chunk=len(low))
        key = (sample.seed, tiles.stage, sample.number)
        noise = torch.stack([_noise(stage, tiles.rows, span, key) for span in tiles.columns])
        labels = labels_of(stage, sample.label, len(low))
        y = stage.run(stage.flow.sample, sample.temperatures[tiles.stage] * noise, low, labels)
        if not y.isfinite().all():
            raise InputError(f"{stage.name} gave values that are not finite; lower the temperature")
        made, cut = stage.coding.image(y, low)[0], 2 * tiles.margin
        tall, wide = made.shape[2:]
        return made[:, :, cut : tall - cut, cut : wide - cut].contiguous().numpy()

    def map(self, tasks: Iterable[Tiles]) -> Iterator[np.ndarray[Any, Any]]:
        """One after the other."""
        return map(self, tasks)


def strips(
    stages: Sequence[Stage],
    place: int,
    low: Pixels,
    sample: Sample,
    tiling: Tiling,
    decode: Decode,
    first: int = 0,
    advance: Callable[[int], None] = lambda tiles: None,
) -> Iterator[Tensor]:
    """What the stage at a ``place`` makes of a low image, uint8 (C, h, 2·w) from the top.

    Begins at strip ``first``; all integers are of the stage's bits. ``advance`` is told how many
    tiles are made, or were before.
    """
    channels, *size = low.shape
    tiles, tall, wide = tiles_of(stages[place], size, tiling)
    tops, lefts = sorted({top for top, _ in tiles})[first:], sorted({left for _, left in tiles})
    seen = [2 * (side + tiling.overlap) for side in (tall, wide)]
    together, margin = groups(stages[place], lefts, seen[0] * seen[1]), tiling.overlap // 2
    advance(len(tiles) - len(tops) * len(lefts))

    def tasks() -> Iterator[Tiles]:
        for top in tops:
            rows = range(top - margin, top + tall + margin)
            band = low[:, mirrored(rows, size[0])]
            for group in together:
                columns = [range(left - margin, left + wide + margin) for left in group]
                seen = torch.stack([band[:, :, mirrored(span, size[1])] for span in columns])
                yield Tiles(place, sample, rows, columns, margin, seen.numpy())

    made = decode(tasks())
    for top in tops:
        strip = torch.empty(channels, 2 * min(tall, size[0] - top), 2 * size[1], dtype=torch.uint8)
        for group in together:
            for left, tile in zip(group, torch.from_numpy(next(made)), strict=True):
                part = strip[:, :, 2 * left : 2 * (left + wide)]
                part.copy_(tile[:, : part.shape[1], : part.shape[2]])
            advance(len(group))
        yield strip


def whole_strips(stage: Stage, low: Pixels, canvas: Canvas, tiling: Tiling) -> int:
    """Strips of a doubled image that a canvas holds; what it has of the next one is forgotten."""
    _, tall, _ = tiles_of(stage, low.shape[1:], tiling)
    if canvas.done == canvas.shape[1]:
        return -(-low.shape[1] // tall)
    done = canvas.done // (2 * tall)
    canvas.keep(done * 2 * tall)
    return done


def groups(stage: Stage, lefts: Sequence[int], pixels: int) -> list[Sequence[int]]:
    """Tiles of so many pixels each, as the stage's device sees them at once.

    A CPU sees one at a time: of the usual size they keep a core as busy as several do, and its
    cache less. A GPU sees as many as memory is sure to hold, in groups of nearly one size.
    """
    on_a_cpu = next(stage.flow.parameters()).device.type == "cpu"
    most = 1 if on_a_cpu else max(1, AT_ONCE // pixels)
    count = -(-len(lefts) // most)
    size = -(-len(lefts) // count)
    return [lefts[i : i + size] for i in range(0, len(lefts), size)]


def _noise(stage: Stage, rows: range, columns: range, key: tuple[int, ...]) -> Tensor:
    """The window of a sample's field that belongs to these rows and columns of the low image."""
    channels, side, _ = stage.flow.shape
    scale = 2 * side // stage.shape[1]  # 2, or 1 for details
    spans = [range(scale * span.start, scale * span.stop) for span in (rows, columns)]
    return noise_window(channels, *spans, *key)


def labels_of(stage: Stage, label: int | None, count: int) -> Tensor | None:
    """One label for ``count`` images, None where the stage uses none or may do without.

    Raises `InputError` where it is missing, or there is no such class.
    """
    if not stage.classes or (label is None and stage.flow.label_optional):
        return None
    if label is None or not 0 <= label < stage.classes:
        raise InputError(f"{stage.name} is class-conditional: give a label 0..{stage.classes - 1}")
    return torch.full((count,), label)
