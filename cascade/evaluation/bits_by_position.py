"""Where an image's likelihood sits: its log-density split over pixels."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from cascade.chain import Cascade
from stages import Bijection, Flow
from stages.coupling import AffineInjector, Coupling
from stages.integers.dequantise import Dequantiser
from stages.integers.mixture import LogisticMixture
from stages.prior import ClassPrior


def _has_log_det(module: nn.Module) -> bool:
    """Whether it adds a log-determinant that is not one of bijections within it."""
    inner = [m for m in module.modules() if isinstance(m, Bijection)]
    return isinstance(module, ClassPrior | Dequantiser) or inner == [module]


def _by_position(module: nn.Module, x: Tensor, cond: Any, z: Tensor, log_det: Tensor) -> Tensor:
    """One module's log-determinant (B,) over the positions of its level, (B, h, w), in nats.

    Where a net chooses the map it is Σ_channels of its log-slope; elsewhere every position counts
    alike.
    """
    if isinstance(module, AffineInjector):
        return cond[1].log().sum(1)
    if isinstance(module, LogisticMixture):
        return module.support.by_position(module.by_value(x, cond)[1])
    if isinstance(module, Dequantiser):
        return module.log_slopes(x, z).sum(1)
    if isinstance(module, Coupling):
        return module.log_slopes(x, cond).sum(1)
    height, width = x.shape[2:]
    return (log_det / (height * width))[:, None, None].expand(-1, height, width)


def _spread(values: Tensor, height: int) -> Tensor:
    """(B, h, w) → (B, H, W) of the same sum: each position's share evenly over its block."""
    factor = height // values.shape[1]
    return values.repeat_interleave(factor, 1).repeat_interleave(factor, 2) / factor**2


@torch.no_grad()
def nats_map(
    flow: Flow, x: Tensor, low: Tensor | None = None, label: Tensor | None = None
) -> Tensor:
    """The log-density of images (B, C, H, W) split over their pixels, (B, H, W), in nats.

    Its sum over pixels is ``flow.log_prob(x, low, label)``. log N(z) sits where the noise sits,
    a log-determinant where the map that has it acts: at the positions of its level, then evenly
    over the pixels below each. A data-independent one (actnorm, 1×1, label) is the same everywhere.
    """
    parts = []

    def note(module: nn.Module, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        parts.append(_spread(_by_position(module, inputs[0], inputs[1], *output), x.shape[2]))

    with ExitStack() as hooks:
        for module in filter(_has_log_det, flow.modules()):
            hooks.enter_context(module.register_forward_hook(note))
        z, _ = flow.encode(x, low, label)
    log_normal = -0.5 * (z.square() + math.log(2 * math.pi)).sum(1)
    return sum(parts, log_normal)


def spent(cascade: Cascade, images: Tensor, labels: Tensor | None, seed: int = 0) -> list[Tensor]:
    """Bits per position that each stage spends on full images (N, C, H, W), base first, (N, h, w).

    Each map's mean, divided by the channels of what the stage models (C pixels or 3C details), is
    the stage's own bits/dim of that image with its first dequantisation noise. Single positions may
    be negative: only the sum is bounded.
    """
    labels = cascade.needed_labels(labels, len(images))
    maps = []
    for i, stage, high, low in cascade.climb(images):
        y = stage.coding.dequantise(high, seed, i, draw=0)
        nats = stage.run(partial(nats_map, stage.flow), y, low, labels)
        maps.append(cascade.bits * y.shape[1] - nats.double() / math.log(2))
    return maps
