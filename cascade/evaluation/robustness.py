"""How a cascade bears what it was not trained on: noisy latents, disturbed low images, samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.evaluation.variational import normal_noise
from cascade.training.augmentation import disturb
from cascade.transforms.dequantise import bits_per_dim, expand_bits, log_volume
from stages import InputError
from stages.flow import without_priors


@dataclass
class Reconstructions:
    """One stage's images at rising σ, uint8 (sigmas, N, C, H, W), and what became of them.

    By σ: the share that ``exploded``, see `cascade.training.augmentation.restore` and the stage's
    own ``augment.limit``, which are shown black, and the others' mean ``distance`` from the clean
    images, in values of n bits (nan where all exploded).
    """

    stage: str
    sigmas: list[float]
    images: Tensor
    distance: list[float]
    exploded: list[float]


@torch.no_grad()
def reconstructions(
    cascade: Cascade,
    images: Tensor,
    labels: Tensor | None,
    stage: int,
    sigmas: Sequence[float],
    scaling: str = "whitened",
    seed: int = 0,
) -> Reconstructions:
    """Encode a stage's images, add σ·ε to the latents, decode: thesis figures 4.1 and 4.2.

    ``images`` are full ones, uint8 (N, C, H, W); ``scaling`` is whitened or raw. All σ share ε.
    """
    labels = cascade.needed_labels(labels, len(images))
    _, model, image, lower = list(cascade.climb(images))[stage]
    if scaling == "raw":
        model = model.replace(flow=without_priors(model.flow))
        labels = labels if model.flow.classes else None
    noise = normal_noise(image, model.flow.shape, seed, stage, draw=0)
    shown, distance, exploded = [], [], []
    for sigma in sigmas:
        strength = torch.full((len(image),), float(sigma))
        limit = model.config.augment.limit
        result, failed = disturb(model, image, lower, labels, strength, noise, limit)
        change = (result.int() - image.int()).abs().double().flatten(1).mean(1)[~failed]
        blank = torch.where(failed[:, None, None, None], 0, expand_bits(result, cascade.bits))
        shown.append(blank)
        distance.append(change.mean().item())
        exploded.append(failed.double().mean().item())
    return Reconstructions(model.name, list(sigmas), torch.stack(shown), distance, exploded)


@torch.no_grad()
def conditional_bpd(
    cascade: Cascade,
    images: Tensor,
    labels: Tensor | None,
    stage: int,
    sigmas: Sequence[float],
    seed: int = 0,
) -> list[tuple[float, float]]:
    """For each σ, a stage's own bits/dim given low images that the stage below disturbed by σ.

    Beside it the share of images whose disturbed version exploded by the stage's own
    ``augment.limit``; these are left out (nan where all did). 0 is the clean condition. A stage
    trained with ``augment.condition`` is told σ. Raises `InputError` for stage 0, which has none
    below it, or missing labels.
    """
    if not 1 <= stage < len(cascade.stages):
        raise InputError(f"stage {stage} has none below it; choose 1 to {len(cascade.stages) - 1}")
    labels = cascade.needed_labels(labels, len(images))
    levels: list[Any] = [None, *cascade.levels(images)]
    lower, low, high = levels[stage - 1 : stage + 2]
    above, below = cascade.stages[stage], cascade.stages[stage - 1]
    noise = normal_noise(high, below.flow.shape, seed, stage, draw=0)
    y = above.coding.dequantise(high, seed, stage, draw=0)
    limit, result = above.config.augment.limit, []
    for sigma in sigmas:
        strength = torch.full((len(images),), float(sigma))
        given, exploded = disturb(below, low, lower, labels, strength, noise, limit)
        told = above.replace(sigma=sigma)
        nats = told.run(told.flow.log_prob, y, given, labels).double()[~exploded]
        nats = nats - log_volume(y[0].numel(), cascade.bits)
        bpd = bits_per_dim(nats.mean(), y[0].numel()).item()
        result.append((bpd, exploded.double().mean().item()))
    return result


@dataclass
class Stability:
    """Shares of samples that went wrong.

    ``failed``: with a value that is not finite or lies more than one whole range of image values
    beyond it; ``not_finite``: with one of the former.
    """

    failed: float
    not_finite: float


@torch.no_grad()
def stability(
    cascade: Cascade, count: int, temperature: float, batch: int = 256, seed: int = 0
) -> Stability:
    """Draw ``count`` samples at a temperature, and count those that went wrong."""
    failed, not_finite = 0, 0
    for first in range(0, count, batch):
        draw = cascade.draw(min(batch, count - first), None, temperature, seed, first)
        failed += int((draw.out_of_range > 1).any(1).sum())
        not_finite += int((~draw.finite).sum())
    return Stability(failed / count, not_finite / count)


@torch.no_grad()
def round_trip(cascade: Cascade, images: Tensor, labels: Tensor | None) -> float:
    """The largest |decode(encode(y)) − y| of any stage, in y, whose range is 1 for pixels."""
    labels = cascade.needed_labels(labels, len(images))
    worst = 0.0
    for _, stage, high, low in cascade.climb(images):
        y = stage.coding.centre(high)
        z = stage.run(stage.flow.noise_of, y, low, labels)
        back = stage.run(stage.flow.decode, z, low, labels)
        worst = max(worst, (back - y).abs().max().nan_to_num(nan=float("inf")).item())
    return worst
