"""Whether an image is of the kind that a stage has learned to enlarge."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cascade.dequantise import reduce_bits
from cascade.pyramid import halve
from cascade.stage import Stage
from cascade.upscale import labels_of, unit
from cascade.watch import density_bpd

ACROSS = 4  # patches looked at along each side
USUAL = (0.5, 2.0)  # energies between these raise no warning


@dataclass
class Typicality:
    """How a stage finds an image's own pair: the halved image, and the image given it.

    ``bpd`` are the stage's bits/dim of the image. ``energy`` is the mean square of its noise z: 1
    for the stage's own samples, whatever they show, and 1 on average over its training images,
    where likelihood is highest. Above, the image has details that the stage does not expect; below,
    it lacks those that it does.
    """

    bpd: float
    energy: float

    @property
    def usual(self) -> bool:
        """Whether the energy is about that of training images."""
        return USUAL[0] <= self.energy <= USUAL[1]


@torch.no_grad()
def typicality(stage: Stage, image: Tensor, label: int | None = None) -> Typicality | None:
    """What a stage thinks of an image uint8 (C, h, w), from up to 16 patches spread evenly.

    Patches have the size the stage was trained at, or less where the image is smaller. None where
    not even the least image of this stage fits.
    """
    patches = spread_patches(reduce_bits(image, stage.config.data.bits), stage)
    if patches is None:
        return None
    low = halve(patches, stage.config.data.bits, stage.config.model.pyramid)
    y = stage.coding.dequantise(patches, 0, 0, 0)
    labels = labels_of(stage, label, len(patches))
    nats = stage.run(stage.flow.log_prob, y, low, labels)
    energy = stage.run(stage.flow.noise_of, y, low, labels).double().square().mean()
    return Typicality(
        density_bpd(nats.double(), y, stage.config.data.bits).mean().item(),
        energy.nan_to_num(nan=math.inf).item(),
    )


def recorded_bpd(folder: Path) -> float | None:
    """The last bits/dim of held-out images that training wrote into a stage folder, if any."""
    log = folder / "metrics.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    found = [row[key] for row in rows for key in ("validation_bpd", "test_bpd") if key in row]
    return found[-1] if found else None


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
