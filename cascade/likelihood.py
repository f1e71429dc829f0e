"""What bits/dim of a cascade means: dequantisation, classes and stages put together.

Several dequantisations tighten the bound as in importance-weighted autoencoders, Burda et al.
(2016), https://arxiv.org/abs/1509.00519
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.transforms.dequantise import bits_per_dim, log_volume

BOUND = "so the figure is a lower bound on log P(image), and bits/dim is an upper bound"
CLIPPED = (
    "That holds for the model of all integers, images or not. The sampler draws from another "
    "distribution: it clips what no image can be, in as many samples as the line above says, and "
    "so adds mass to images at the border. For it, too, the figure is a lower bound on "
    "log P(image)."
)
UNCLIPPED = (
    "It is of the distribution that is sampled at temperature 1, over images alone: nothing is "
    "clipped."
)


def class_columns(
    density: Callable[[Tensor], Tensor],
    dequantised: Callable[[int], Tensor],
    samples: int,
    bits: int,
) -> Tensor:
    """One stage's log P(v | y) in nats for every class, float64 (B, classes or 1).

    log (1/K) Σ_k p(y_k)/2^(nD) over K dequantisations y_k = ``dequantised(k)`` of the stage's
    integers v, kept as a running sum, the same noise for every class. ``density`` maps y
    (B, C, H, W) to log-densities (B, classes).
    """
    total: Any = None
    for draw in range(samples):
        y = dequantised(draw)
        result = density(y).double()
        total = result if total is None else torch.logaddexp(total, result)
    return total - math.log(samples) - log_volume(y[0].numel(), bits)


def compose(
    columns: Sequence[Tensor], labels: Tensor | None, prior: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Stages' class columns → nats (B, stages) that sum to the image's, and log p(y | image).

    With labels each stage gives its label's column. Without, classes have the probabilities
    ``prior`` (classes,), equal ones if None, and stage i gives LSE_y[log π_y + Σ_{j≤i}] −
    LSE_y[log π_y + Σ_{j<i}], where the posterior falls out.
    """
    classes = max(column.shape[1] for column in columns)
    full = [column.expand(-1, classes) for column in columns]
    if labels is not None:
        return torch.cat([column.gather(1, labels[:, None]) for column in full], dim=1), None
    prior = torch.ones(classes) if prior is None else prior
    running = (prior.double() / prior.sum()).log().expand_as(full[0])
    before = running.logsumexp(1)
    nats = []
    for column in full:
        running = running + column
        after = running.logsumexp(1)
        nats.append(after - before)
        before = after
    posterior = running - before[:, None] if classes > 1 else None
    return torch.stack(nats, dim=1), posterior


@dataclass(kw_only=True)
class Report:
    """Scores of N images: per-stage nats (N, stages), and what follows from them.

    ``sizes`` are the stages' numbers of dimensions, ``dimensions`` is the full image's. ``bpd``
    divides the summed nats once by the latter; a stage's own bpd divides by its own dimensions, its
    share by the full image's, so that shares add up to ``bpd``. ``posterior`` (N, classes) is
    log p(y | image) where classes were summed. ``dequantised`` names the stages whose density is of
    dequantised values; the others give integers probabilities. ``bounded`` says whether all stages
    make nothing but values that images have. ``given`` names the part of the image that the rest is
    given, if any; ``dimensions`` are those of the rest. ``values`` are the stages' numbers of
    dequantised values, which ``sizes`` are but for holes: pixels around them are dequantised too.
    """

    names: list[str]
    sizes: list[int]
    dimensions: int
    nats: Tensor
    posterior: Tensor | None
    pyramid: str
    bits: int
    dequantised: list[str]
    bounded: bool
    given: str
    values: list[int]

    @property
    def image_bpd(self) -> Tensor:
        """Bits per dimension of each image, (N,)."""
        return bits_per_dim(self.nats.sum(1), self.dimensions)

    @property
    def bpd(self) -> float:
        """Mean bits per dimension."""
        return self.image_bpd.mean().item()

    @property
    def stderr(self) -> float:
        """Standard error of ``bpd`` over images; nan for a single image."""
        return (self.image_bpd.std() / math.sqrt(len(self.nats))).item()

    @property
    def stages(self) -> list[dict[str, Any]]:
        """Per stage: name, mean nats, bpd over its own dimensions, share of the composed bpd.

        ``constant`` is what dequantisation adds to the log-density, −D·log 2ⁿ, within the nats.
        """
        rows = []
        for i, (name, size) in enumerate(zip(self.names, self.sizes, strict=True)):
            mean = self.nats[:, i].mean()
            rows.append(
                {
                    "name": name,
                    "nats": mean.item(),
                    "bpd": bits_per_dim(mean, size).item(),
                    "share": bits_per_dim(mean, self.dimensions).item(),
                    "constant": -log_volume(self.values[i], self.bits),
                }
            )
        return rows

    @property
    def statement(self) -> str:
        """What the figure is, to be said wherever it is printed."""
        names = self.dequantised
        if len(self.names) > 1 and self.pyramid == "bicubic":
            first = (
                f"The dequantisation of {', '.join(names)} is bounded, and the" if names else "The"
            )
            return (
                f"{first} stages' sum counts one path through the pyramid, while a stage also "
                f"gives mass to images whose downsampling is not its input, {BOUND}."
            )
        whose = "The figure" if len(self.names) == 1 else "The stages' sum"
        image = f"image | {self.given}" if self.given else "image"
        text = f"{whose} is log P({image}) itself"
        if names:
            text += f", but for the dequantisation of {', '.join(names)}, which is bounded, {BOUND}"
        text = text.replace("on log P(image)", f"on log P({image})")
        return f"{text}. {UNCLIPPED if self.bounded else CLIPPED}"

    def accuracy(self, labels: Tensor) -> float | None:
        """Share of images whose most likely class is their label, where classes were summed."""
        if self.posterior is None:
            return None
        return (self.posterior.argmax(1) == labels).double().mean().item()
