"""Variational augmentation: a low image disturbed in the latent space of the stage that makes it.

The frozen previous stage encodes the clean low image, σ·ε is added to its noise, and the decoded
image takes the clean one's place as a condition. Seen as a variational posterior over whitened
noise, q = N(z, σ²I), it has a closed-form divergence from the prior, `kl_to_prior`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.config.sigma import sigma_at
from cascade.data.sources import ImageSource
from cascade.manifest import check_chain
from cascade.pretrained import load_one
from cascade.stage import Stage
from cascade.utils.seeds import generator, image_digest
from cascade.utils.tensors import weights_digest
from stages import InputError
from stages.flow import without_priors

LIMIT = 2.0  # |y| beyond which an image counts as exploded; proper ones live in ±½


def disturb(
    stage: Stage,
    image: Tensor,
    lower: Tensor | None,
    label: Tensor | None,
    sigma: Tensor,
    noise: Tensor,
    limit: float = LIMIT,
) -> tuple[Tensor, Tensor]:
    """An integer image's (B, C, H, W) version x' = f⁻¹(f(x) + σ·ε), and which rows exploded (B,).

    f encodes the middle of the image's bins, given the clean image ``lower`` of half the size;
    ``sigma`` is (B,), ``noise`` standard normal ε of the flow's shape. The result is quantised and
    clipped; exploded rows, see `restore`, and those with σ = 0 are the image itself.
    """
    shift = sigma.to(noise)[:, None, None, None] * noise
    decoded = stage.perturb(image, shift, lower, label)
    clean = stage.coding.centre(image).to(decoded)
    restored, exploded = restore(decoded, clean, limit * stage.coding.span)
    disturbed, _ = stage.coding.image(restored, lower)
    still = (sigma == 0) | exploded
    return torch.where(still[:, None, None, None], image, disturbed), exploded & (sigma != 0)


def restore(decoded: Tensor, clean: Tensor, limit: float = LIMIT) -> tuple[Tensor, Tensor]:
    """``decoded`` (B, C, H, W), with ``clean`` in the rows that exploded; which these are, (B,).

    A row explodes where a value is not finite or above ``limit`` in size.
    """
    replaced = ~(decoded.abs() <= limit).flatten(1).all(1)
    return torch.where(replaced[:, None, None, None], clean, decoded), replaced


def kl_to_prior(z: Tensor, sigma: float) -> Tensor:
    """KL(N(z, σ²I) ‖ N(0, I)) = ½(kσ² + zᵀz − k − k·log σ²) in nats, k = dim z; float64 (B,).

    Raises `InputError` for σ = 0, where it is infinite.
    """
    if not sigma > 0:
        raise InputError(f"only a sigma above 0 has a divergence from the prior, got {sigma}")
    flat = z.double().flatten(1)
    k = flat.shape[1]
    return 0.5 * (flat.square().sum(1) + k * (sigma**2 - 1 - 2 * math.log(sigma)))


@dataclass
class Disturbed:
    """Low images uint8 (B, C, h, w), the σ each was disturbed by (B,), and which exploded (B,).

    Those that exploded are clean, and their σ is 0.
    """

    low: Tensor
    sigma: Tensor
    replaced: Tensor


class Augmentation:
    """The frozen previous stage of one that trains, and how it disturbs that one's low images.

    What an image becomes is a function of (seed, step // refresh, the image, its label): the same
    after a resume, and, but for rounding, for any number of processes.
    """

    def __init__(self, config: StageConfig, device: torch.device):
        self.config = config
        self.augment = config.augment
        assert config.augment.previous is not None  # or nothing disturbs, see `open_stage_data`
        stage = load_one(config.augment.previous, device)
        _check_previous(stage, config)
        self.flow = stage.flow.requires_grad_(False)
        raw = config.augment.scaling == "raw"
        self.stage = stage.replace(flow=without_priors(self.flow)) if raw else stage
        self.weights = weights_digest(self.flow)
        self.block = -1
        self.pool: dict[tuple[Any, ...], tuple[Tensor, float, bool]] = {}

    @property
    def digest(self) -> str:
        """SHA-256 of the previous stage's weights file."""
        return self.stage.digest

    @property
    def labelled(self) -> bool:
        """Whether the previous stage needs labels; without a class prior it may not."""
        return bool(self.stage.flow.classes)

    def check_labels(self, source: ImageSource) -> None:
        """Raise `InputError` unless a data set's labels are those the previous stage knows."""
        if not self.labelled:
            return
        previous, known = self.augment.previous, self.stage.record.classes
        if source.labels is None:
            raise InputError(f"{previous} has classes, but {self.config.data.name} has no labels")
        if list(source.classes) != known or int(source.labels.max()) >= self.stage.classes:
            raise InputError(f"{previous} was trained on other classes than this data set's")

    def __call__(self, low: Tensor, label: Tensor | None, step: int) -> Disturbed:
        """Clean integer low images (B, C, h, w) → disturbed ones, for one training step."""
        block = step // self.augment.refresh
        if block != self.block:
            self.block, self.pool = block, {}
        labels = [None] * len(low) if label is None or not self.labelled else label.tolist()
        keys = [(image_digest(image), y) for image, y in zip(low, labels, strict=True)]
        new = {key: row for row, key in enumerate(keys) if key not in self.pool}
        if new:
            stage = self.stage.replace(chunk=len(low))  # a process's share of the batch, always
            self._disturb(stage, list(new), torch.tensor(list(new.values())), low, label)
        images, sigmas, replaced = zip(*(self.pool[key] for key in keys), strict=True)
        return Disturbed(torch.stack(images), torch.tensor(sigmas), torch.tensor(replaced))

    def _disturb(
        self, stage: Stage, keys: list[tuple[Any, ...]], rows: Tensor, low: Tensor, label: Any
    ) -> None:
        """Fill the pool with the images at ``rows``, which ``keys`` name."""
        seed = self.config.seed
        sources = [generator("augment", seed, self.block, *key) for key in keys]
        step = self.block * self.augment.refresh
        sigma = torch.tensor([sigma_at(self.augment.sigma, step, source) for source in sources])
        noise = torch.stack([torch.randn(stage.flow.shape, generator=source) for source in sources])
        image = low[rows]
        lower = None
        if stage.config.upsamples:
            lower = stage.lower(image)
        label = label[rows] if self.labelled else None
        disturbed, exploded = image, torch.zeros(len(rows), dtype=torch.bool)
        if sigma.any():
            disturbed, exploded = disturb(
                stage, image, lower, label, sigma, noise, self.augment.limit
            )
        sigma = torch.where(exploded, 0.0, sigma)
        for key, *result in zip(keys, disturbed, sigma.tolist(), exploded.tolist(), strict=True):
            self.pool[key] = tuple(result)

    def verify(self) -> None:
        """Raise `RuntimeError` if the previous stage's weights are no longer what they were."""
        if weights_digest(self.flow) != self.weights:
            raise RuntimeError(f"the weights of {self.augment.previous} changed during training")


def _check_previous(stage: Stage, config: StageConfig) -> None:
    """Raise `InputError` unless the stage's images are what this one conditions on."""
    try:
        check_chain([(stage.name, stage.config), (config.out, config)])
    except InputError as error:
        raise InputError(f"augment.previous={config.augment.previous}: {error}") from None
