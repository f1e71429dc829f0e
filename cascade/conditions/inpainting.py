"""Missing parts of photos of any size: what a stage of kind inpaint draws given the rest."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.photos.strips import labels_of
from cascade.stage import Stage
from cascade.transforms.coding import with_hole
from cascade.transforms.dequantise import bits_per_dim, expand_bits, log_volume, reduce_bits
from cascade.utils.non_finite import check_some_finite
from cascade.utils.seeds import noise_window
from stages import InputError

MARGIN = 32  # pixels around what is missing that a stage sees


def check_holes(stage: Stage) -> None:
    """Raise `InputError` unless a stage completes images."""
    if not stage.config.hole:
        kind = stage.config.model.kind
        raise InputError(
            f"{stage.name} is of kind {kind}: holes are filled by a stage of kind inpaint"
        )


@dataclass(frozen=True)
class Window:
    """The part of an image that a stage sees: rows and columns, of sides that its levels divide.

    Where the image ends, the rest repeats its last row and column, as pixels that are given.
    """

    rows: range
    columns: range

    @classmethod
    def around(cls, hole: Tensor, step: int) -> Window:
        """What lies within `MARGIN` of a hole (H, W), from multiples of ``step`` to such."""
        spans = []
        for axis in (1, 0):
            places = hole.any(axis).nonzero().flatten()
            first = max(0, int(places[0]) - MARGIN) // step * step
            last = min(len(hole.any(axis)), int(places[-1]) + 1 + MARGIN)
            spans.append(range(first, first + -(-(last - first) // step) * step))
        return cls(*spans)

    def of(self, image: Tensor) -> Tensor:
        """The window of an image (…, H, W)."""
        rows, columns = (
            torch.arange(span.start, span.stop).clamp(max=side - 1)
            for span, side in zip((self.rows, self.columns), image.shape[-2:], strict=True)
        )
        return image[..., rows, :][..., columns]

    def hole_of(self, hole: Tensor) -> Tensor:
        """The window of a hole (H, W), which goes no further than the image."""
        below = max(0, self.rows.stop - hole.shape[0])
        right = max(0, self.columns.stop - hole.shape[1])
        return self.of(F.pad(hole, (0, right, 0, below)))


def _seen(stage: Stage, image: Tensor, hole: Tensor) -> tuple[Window, Tensor, Tensor]:
    """The window around a hole, and of it the image and what is given, integers (1, C, h, w)."""
    check_holes(stage)
    if image.shape[1:] != hole.shape:
        sides = [f"{height}x{width}" for height, width in (hole.shape, image.shape[1:])]
        raise InputError(f"the mask is {sides[0]}, the image {sides[1]}: give one of its size")
    if not hole.any():
        raise InputError("the mask marks no pixel as missing: white is what is to be filled")
    window = Window.around(hole, 2**stage.config.model.levels)
    pixels = window.of(reduce_bits(image, stage.config.data.bits))[None]
    given = with_hole(pixels, window.hole_of(hole)[None], stage.config.data.bits)
    return window, pixels, given


@torch.no_grad()
def completions(
    stage: Stage,
    image: Tensor,
    hole: Tensor,
    count: int,
    label: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Versions of an image, uint8 (``count``, C, H, W), that differ in a hole, bool (H, W).

    ``image`` is uint8 (C, H, W). Noise belongs to the seed, the number of a version and the place
    of a pixel. Raises `InputError` where a label is missing, nothing is to be filled, or no version
    is finite.
    """
    window, _, given = _seen(stage, image, hole)
    alone, labels = stage.replace(chunk=1), labels_of(stage, label, 1)
    rows, columns = window.rows, window.columns
    down, across = (slice(span.start, span.stop) for span in (rows, columns))
    versions = image.repeat(count, 1, 1, 1)
    for number, version in enumerate(versions):
        noise = noise_window(len(image), rows, columns, "inpaint", seed, number)
        y = alone.run(stage.flow.sample, temperature * noise[None], given, labels)
        check_some_finite(y)
        (drawn,) = expand_bits(stage.coding.image(y, given)[0], stage.config.data.bits)
        part = version[:, down, across]
        missing = hole[down, across].expand_as(part)
        part[missing] = drawn[:, : part.shape[1], : part.shape[2]][missing]
    return versions


@torch.no_grad()
def hole_bpd(
    stage: Stage, image: Tensor, hole: Tensor, label: int | None = None, seed: int = 0
) -> float:
    """Bits per missing value that the image's own pixels in a hole take, given the others."""
    _, pixels, given = _seen(stage, image, hole)
    y = stage.coding.dequantise(pixels, seed, 0, 0)
    labels = labels_of(stage, label, 1)
    nats = stage.replace(chunk=1).run(stage.flow.log_prob, y, given, labels).double()
    missing = len(image) * int(hole.sum())
    return bits_per_dim(nats - log_volume(y.numel(), stage.config.data.bits), missing).item()
