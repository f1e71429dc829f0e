"""Whether an image is of the kind that a stage has learned to enlarge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cascade.photos.strips import labels_of
from cascade.photos.tiling import unit
from cascade.stage import Stage
from cascade.training.metrics_log import read_metrics
from cascade.transforms.dequantise import density_bpd, reduce_bits
from cascade.utils.seeds import generator

ACROSS = 4  # patches looked at along each side
USUAL = 1.0  # bits/dim: images whose surprise is further from 0 are out of the ordinary


@dataclass
class Typicality:
    """Bits/dim of an image given its halved copy, and of the stage's own samples given the same.

    The samples say what the stage expects of this very image, whether smooth or busy, so that
    ``surprise`` is near 0 for images of the kind it was trained on. Above, the image has details
    that the stage does not expect; below, it lacks those that it does. Samples are scored as the
    stage drew them, not as images: rounded and dequantised again, a value just outside its bin
    would be drawn again across the neighbouring one, which may be far less likely.
    """

    bpd: float
    expected: float

    @property
    def surprise(self) -> float:
        """Bits/dim of the image above those of samples."""
        return self.bpd - self.expected

    @property
    def usual(self) -> bool:
        """Whether the stage finds the image like its own samples."""
        return abs(self.surprise) <= USUAL


@torch.no_grad()
def typicality(stage: Stage, image: Tensor, label: int | None = None) -> Typicality | None:
    """What a stage thinks of an image uint8 (C, h, w), from up to 16 patches spread evenly.

    Patches have the size the stage was trained at, or less where the image is smaller. None where
    not even the least image of this stage fits.
    """
    patches = spread_patches(reduce_bits(image, stage.config.data.bits), stage)
    if patches is None:
        return None
    low = stage.lower(patches)
    labels = labels_of(stage, label, len(patches))
    noise = torch.randn(stage.coding.values(patches).shape, generator=generator("typical"))
    drawn = stage.run(stage.flow.sample, noise, low, labels)
    real = stage.coding.dequantise(patches, seed=0, stage=0, draw=0)
    return Typicality(_bpd(stage, real, low, labels), _bpd(stage, drawn, low, labels))


def _bpd(stage: Stage, y: Tensor, low: Tensor, labels: Tensor | None) -> float:
    nats = stage.run(stage.flow.log_prob, y, low, labels).double()
    return density_bpd(nats, y, stage.config.data.bits).mean().item()


def recorded_bpd(folder: Path) -> float | None:
    """The last bits/dim of held-out images that training wrote into a stage folder, if any."""
    rows = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    result = [row[key] for row in rows for key in ("validation_bpd", "test_bpd") if key in row]
    return result[-1] if result else None


def spread_patches(image: Tensor, stage: Stage) -> Tensor | None:
    """Up to `ACROSS`² patches (N, C, s, t) of an image (C, h, w), None where it is too small."""
    step = unit(stage)
    tall, wide = (min(stage.shape[1], side // step * step) for side in image.shape[1:])
    if not tall or not wide:
        return None
    tops, lefts = _spread(image.shape[1] - tall), _spread(image.shape[2] - wide)
    return torch.stack([image[:, i : i + tall, j : j + wide] for i in tops for j in lefts])


def _spread(room: int) -> list[int]:
    return sorted({round(place) for place in torch.linspace(0, room, ACROSS).tolist()})
