"""How an image of any size is cut into tiles of one size, which overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.stage import Stage
from stages import InputError

Tile = tuple[int, int]  # its first row and column in the low image


@dataclass(frozen=True)
class Tiling:
    """Sides in pixels of the doubled image: a tile's own, and what it sees beyond on every side."""

    tile: int = 256
    overlap: int = 32

    def check(self, stage: Stage, side: int) -> None:
        """Raise `InputError` for what a stage does not take, or an image of this longest ``side``.

        2^levels must divide both: the coarsest latents' grid. Beyond an image a tile sees nothing
        but its mirror image, so an overlap larger than the image costs much and adds nothing.
        """
        step = unit(stage)
        for name, value, least in (("tile", self.tile, step), ("overlap", self.overlap, 0)):
            if value % step or value < least:
                raise InputError(
                    f"{name} must be a multiple of {step} for the {stage.flow.levels} levels of "
                    f"{stage.name}, from {least} on, got {value}"
                )
        most = max(2 * side, TILING.overlap)
        if self.overlap > most:
            raise InputError(
                f"overlap must be at most {most} for an image that becomes {2 * side} pixels long, "
                f"got {self.overlap}"
            )


TILING = Tiling()


def unit(stage: Stage) -> int:
    """2^levels: what divides the sides of every image a stage can make."""
    return 2**stage.flow.levels


def count_tiles(stages: Sequence[Stage], height: int, width: int, tiling: Tiling) -> int:
    """How many tiles one sample of an image takes, through all stages."""
    return sum(
        len(tiles_of(stage, (height << i, width << i), tiling)[0]) for i, stage in enumerate(stages)
    )


def tiles_of(stage: Stage, size: Sequence[int], tiling: Tiling) -> tuple[list[Tile], int, int]:
    """The tiles of a low image, and their height and width in it."""
    multiple = unit(stage) // 2
    tall, wide = (min(tiling.tile // 2, -(-side // multiple) * multiple) for side in size)
    tiles = [(top, left) for top in range(0, size[0], tall) for left in range(0, size[1], wide)]
    return tiles, tall, wide


def mirrored(span: range, size: int) -> Tensor:
    """Indices of a span that may reach beyond 0..size−1, reflected at both ends, int64."""
    places = torch.arange(span.start, span.stop) % (2 * size)
    return torch.minimum(places, 2 * size - 1 - places)
