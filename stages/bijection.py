"""Invertible maps of images, and the combinators that build a multi-scale flow from them.

Source: NICE (https://arxiv.org/abs/1410.8516) for the composition of bijections; RealNVP
(https://arxiv.org/abs/1605.08803), section 3.6, for squeeze and the multi-scale
architecture.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cond = tuple[Tensor, ...]  # a condition
Map = Callable[[Tensor, Cond], tuple[Tensor, Tensor]]
Reconstruction = tuple[list[Tensor], Tensor, Tensor]  # see `Bijection.reconstruct`


class Bijection(nn.Module, ABC):
    """An invertible map of images (B, C, H, W) to images of the same shape.

    Both methods return the mapped images and ``log_det`` (B,) in nats: log |det J| of the direction
    that was computed, so that log_det of `inverse` is minus that of `forward`. ``cond`` is the
    condition: feature maps by level, finest first, or what `Steps` computes from them for each of
    its parts. A bijection without a condition ignores it.
    """

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        """z = f(x), and log |det ∂z/∂x|."""

    @abstractmethod
    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        """x = f⁻¹(z), and log |det ∂x/∂z|."""

    def given(self, cond: Cond) -> Cond:
        """What of ``cond`` it is given, without what `Steps` computes in advance."""
        return cond

    def reconstruct(self, z: Tensor, cond: Cond) -> Reconstruction:
        """Compute the input from the output, and run `forward` on it to record its graph.

        For a backward pass that does not store activations (`stages.reversible`). Gradients are
        enabled when it is called.

        Args:
            z: the output of `forward`, (B, C, H, W).
            cond: the condition that `forward` had.

        Returns:
            The input as leaf tensors, which concatenated along the channels are x; then z and
            log_det as functions of these leaves.
        """
        with torch.no_grad():
            x, _ = self.inverse(z, cond)
        x = x.detach().requires_grad_()
        return [x], *self(x, cond)


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.length = len(tensors[0])
        return torch.cat(tensors)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return grad.split(ctx.length)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """`torch.cat` of tensors of one shape; the backward pass is one operator, not one for each."""
    if len(tensors) == 1:
        return tensors[0]
    return _Joined.apply(*tensors) if torch.is_grad_enabled() else torch.cat(list(tensors))


def compose(x: Tensor, maps: Sequence[Map], conds: Sequence[Cond]) -> tuple[Tensor, Tensor]:
    """Apply maps one after the other, each with its own condition; log-determinants add up."""
    log_dets = []
    for apply, cond in zip(maps, conds, strict=True):
        x, log_det = apply(x, cond)
        log_dets.append(log_det)
    if not log_dets:
        return x, x.new_zeros(len(x))
    return x, joined(log_dets).view(len(log_dets), -1).sum(0)


class Chain(Bijection):
    """Bijections one after the other: f = f_n ∘ … ∘ f_1."""

    def __init__(self, *parts: Bijection):
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return compose(x, self.parts, [cond] * len(self.parts))

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return compose(z, [p.inverse for p in reversed(self.parts)], [cond] * len(self.parts))


class Identity(Bijection):
    """z = x, log_det = 0."""

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return z, z.new_zeros(len(z))


def squeeze(x: Tensor) -> Tensor:
    """2×2 blocks of pixels become channels: (B, C, H, W) → (B, 4C, H/2, W/2)."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of `squeeze`: (B, 4C, H, W) → (B, C, 2H, 2W)."""
    return F.pixel_shuffle(x, 2)


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """The first C // 2 channels, and the other channels."""
    first = x.shape[1] // 2
    kept, other = x.split([first, x.shape[1] - first], dim=1)
    return kept, other


class Squeeze(Bijection):
    """Squeeze, apply ``inner``, unsqueeze: the output has the shape of the input."""

    def __init__(self, inner: Bijection):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        z, log_det = self.inner(squeeze(x), cond)
        return unsqueeze(z), log_det

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        x, log_det = self.inner.inverse(squeeze(z), cond)
        return unsqueeze(x), log_det


class Split(Bijection):
    """Apply ``inner``, the next level, to the first C // 2 channels; the others are done.

    ``inner`` gets the condition without its first feature map, which is of the current level.
    """

    def __init__(self, inner: Bijection):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        first, second = split(x)
        z, log_det = self.inner(first, cond[1:])
        return torch.cat([z, second], dim=1), log_det

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        first, second = split(z)
        x, log_det = self.inner.inverse(first, cond[1:])
        return torch.cat([x, second], dim=1), log_det


def split_latents(z: Tensor, levels: int, squeezed: bool = True) -> tuple[Tensor, list[Tensor]]:
    """Separate the latents of a multi-scale flow, which are stored in one tensor of image shape.

    Args:
        z: the output of the flow, (B, C, H, W).
        levels: the number of levels of the flow.
        squeezed: whether the first level begins with a squeeze, as all other levels do.

    Returns:
        The latent of the coarsest level, then the latents split off at the other levels, finest
        first.
    """
    z, split_off = squeeze(z) if squeezed else z, []
    for _ in range(levels - 1):
        z, latent = split(z)
        z = squeeze(z)
        split_off.append(latent)
    return z, split_off


def merge_latents(top: Tensor, split_off: list[Tensor], squeezed: bool = True) -> Tensor:
    """The inverse of `split_latents`."""
    for latent in reversed(split_off):
        top = torch.cat([unsqueeze(top), latent], dim=1)
    return unsqueeze(top) if squeezed else top
