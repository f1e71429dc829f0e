"""How far the samples of a photo differ from one another, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.photos.canvas import Canvas, Pixels, spans


@dataclass(frozen=True)
class Range:
    """Mean and largest deviation over pixels, in grey levels."""

    mean: float
    largest: float


def deviation(samples: Iterable[Tensor]) -> Tensor:
    """Standard deviation of samples uint8 (C, H, W) in grey levels, float64 (H, W).

    The variance is the unbiased one, 0 of a single sample; of channels it is the mean. Samples are
    looked at one after the other. Sums of squared integers are exact: equal samples give 0.
    """
    count, total, squares = 0, torch.tensor(0), torch.tensor(0)
    for sample in samples:
        values = sample.long()
        count, total, squares = count + 1, total + values, squares + values.square()
    spread = (count * squares - total.square()).double()
    return (spread / max(1, count * (count - 1))).mean(0).sqrt()


def draw_deviation(samples: Sequence[Pixels], canvas: Canvas) -> Range:
    """Fill a canvas (1, H, W) with the `deviation`: black is 0, white the largest, which it gives.

    Whatever the canvas held before is gone. Strips of the samples are read twice, and none is held
    longer.
    """
    sums, largest = 0.0, 0.0
    for strip in _strips(samples):
        sums, largest = sums + strip.sum().item(), max(largest, strip.max().item())
    canvas.keep(0)
    for strip in _strips(samples):
        grey = 255 * strip / largest if largest else strip
        canvas.append(grey.round().to(torch.uint8)[None])
    return Range(sums / (canvas.shape[1] * canvas.shape[2]), largest)


def _strips(samples: Sequence[Pixels]) -> Iterator[Tensor]:
    """The deviation's rows, strip by strip from the top."""
    for rows in spans(samples[0].shape[1]):
        yield deviation(sample[:, rows.start : rows.stop] for sample in samples)
