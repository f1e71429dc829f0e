"""Paths through the noise of all stages: between two real images, and closed walks of chance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from cascade.chain import Cascade
from cascade.stage import Stage, per_stage
from cascade.utils.seeds import sample_noise
from stages import Flow, InputError
from stages.bijection import merge_latents, split_latents

HARMONICS = 2  # of a walk: more of them wind more


def spherical(start: Tensor, end: Tensor, share: float) -> Tensor:
    """Noise (N, ...) a ``share`` t of the way along the arc from ``start`` to ``end``.

    z(t) = r(t)·(sin((1 − t)θ)·a + sin(tθ)·b)/sin θ for their directions a and b, the angle θ
    between these, and the radius r(t) = (1 − t)·|start| + t·|end| (slerp, Shoemake 1985). Standard
    normal noise of D numbers lies close to the sphere of radius √D. A straight line leaves it:
    halfway between two samples its radius is √(D/2), as at temperature 0.7.

    Raises `InputError` for opposite directions, between which no arc is the shortest.
    """
    a, b = (normalize(z.double().flatten(1), dim=1) for z in (start, end))
    angle = 2 * torch.atan2((a - b).norm(dim=1), (a + b).norm(dim=1))[:, None] / math.pi
    if (angle > 1 - 1e-9).any():
        raise InputError("no arc is the shortest between noise and its opposite: take other images")
    # sin(tθ)/sin θ = t·sinc(tθ)/sinc(θ), which holds for θ = 0 as well
    ways = [t * torch.sinc(t * angle) / torch.sinc(angle) for t in (1 - share, share)]
    lengths = [z.double().flatten(1).norm(dim=1, keepdim=True) for z in (start, end)]
    radius = torch.lerp(lengths[0], lengths[1], share)
    return (radius * (ways[0] * a + ways[1] * b)).reshape(start.shape).to(start)


def between(
    cascade: Cascade,
    starts: Tensor,
    ends: Tensor,
    shares: Sequence[float],
    start_labels: Tensor | Sequence[int] | None = None,
    end_labels: Tensor | Sequence[int] | None = None,
) -> list[list[Tensor]]:
    """Every stage's noise on the way from real images to others, to be decoded at ``start_labels``.

    ``starts`` and ``ends`` are uint8 (N, C, H, W); for each share it gives the noise of all stages,
    base first. Every stage's goes along an arc, see `spherical`, and is decoded given the rounded
    image that the stage below makes on the way, so a share of 0 or 1 is the real image itself.

    From one class to another, what the label does to a stage's coarsest latent, z → μ_y + σ_y·z,
    goes along as well: mean and deviation change along a straight line. Where a mixture's nets read
    the label, the end is the noise that makes the end's image at the start's label.
    """
    start_labels = cascade.needed_labels(start_labels, len(starts))
    end_labels = cascade.needed_labels(end_labels, len(ends))
    first = cascade.encode(starts, start_labels)
    last = cascade.encode(ends, end_labels)
    if any(stage.classes and not stage.flow.has_prior for stage in cascade.stages):
        at_start = cascade.encode(ends, start_labels)
        last = [
            one if stage.flow.has_prior else other
            for stage, one, other in zip(cascade.stages, last, at_start, strict=True)
        ]
    return [
        [
            _relabelled(stage, spherical(a, b, share), start_labels, end_labels, share)
            for stage, a, b in zip(cascade.stages, first, last, strict=True)
        ]
        for share in shares
    ]


@torch.no_grad()
def _relabelled(
    stage: Stage, noise: Tensor, labels: Tensor | None, others: Tensor | None, share: float
) -> Tensor:
    """Noise that is to ``labels`` what ``noise`` is a ``share`` of the way from them to others."""
    if not stage.flow.has_prior:
        return noise
    one, two = (
        stage.run(partial(_unwhitened, stage.flow), noise, None, y) for y in (labels, others)
    )
    return stage.run(partial(_whitened, stage.flow), torch.lerp(one, two, share), None, labels)


def _unwhitened(flow: Flow, noise: Tensor, low: None, label: Tensor) -> Tensor:
    top, rest = split_latents(noise, flow.levels, flow.squeezed)
    return merge_latents(flow.prior.inverse(top, label), rest, flow.squeezed)


def _whitened(flow: Flow, latent: Tensor, low: None, label: Tensor) -> Tensor:
    top, rest = split_latents(latent, flow.levels, flow.squeezed)
    return merge_latents(flow.prior(top, label)[0], rest, flow.squeezed)


def walk(
    cascade: Cascade,
    num: int,
    frames: int,
    labels: Tensor | Sequence[int] | None = None,
    temperature: float | Sequence[float] = 1.0,
    seed: int = 0,
) -> Iterator[list[Tensor]]:
    """Closed walks of ``num`` samples: each frame's images, base first, uint8 (num, C, h, w).

    z(φ) = τ·Σₖ (aₖ·cos kφ + bₖ·sin kφ)/√K, k = 1..K, for every stage's noise at
    φ = 2π·frame/``frames``, with standard normal aₖ and bₖ. So a frame by itself is a sample like
    any other, frames that follow one another are alike, and the last one leads to the first. A
    walk depends on its seed, number, label and temperature alone; without ``labels`` the walks of
    a conditional cascade take the classes in turn.
    """
    temperatures = per_stage(temperature, len(cascade.stages))
    if labels is None and cascade.classes:
        labels = torch.arange(num) % cascade.classes
    waves = [
        scale * sample_noise(stage.flow.shape, seed, i, 0, 2 * HARMONICS * num)
        for i, (stage, scale) in enumerate(zip(cascade.stages, temperatures, strict=True))
    ]
    waves = [w.unflatten(0, (num, 2 * HARMONICS)) for w in waves]
    for frame in range(frames):
        phases = 2 * math.pi * frame / frames * torch.arange(1, HARMONICS + 1)
        heights = torch.cat([phases.cos(), phases.sin()]) / math.sqrt(HARMONICS)
        noises = [torch.einsum("k,nk...->n...", heights, w) for w in waves]
        yield cascade.decode_levels(noises, labels)
