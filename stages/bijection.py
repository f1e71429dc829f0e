"""The algebra: what an invertible map of images is, and how maps combine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Cond = tuple[Tensor, ...]
Rewound = tuple[list[Tensor], Tensor, Tensor]  # see `Bijection.rewind`
Map = Callable[[Tensor, Cond], tuple[Tensor, Tensor]]


class Bijection(nn.Module, ABC):
    """An invertible map of images (B, C, H, W) to images.

    Both directions return the mapped image and ``log_det`` (B,), in nats: the log of the absolute
    Jacobian determinant of *that* direction, summed over the image. ``cond`` holds feature maps
    by level, finest first, or what `Steps` hands to its parts; a part that needs none ignores it.
    """

    @abstractmethod
    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]: ...

    def rewind(self, z: Tensor, cond: Cond) -> Rewound:
        """The input x of an output, as leaves of a graph that maps it to z and log_det again.

        The leaves are x's channels in order. Called with gradients on; ``cond`` is `forward`'s.
        """
        with torch.no_grad():
            x, _ = self.inverse(z, cond)
        x = x.detach().requires_grad_()
        return [x], *self(x, cond)


def compose(x: Tensor, maps: Sequence[Map], conds: Sequence[Cond]) -> tuple[Tensor, Tensor]:
    """Apply maps in turn, each with its own condition; log-determinants add."""
    log_det = x.new_zeros(len(x))
    for apply, cond in zip(maps, conds, strict=True):
        x, change = apply(x, cond)
        log_det = log_det + change
    return x, log_det


class Chain(Bijection):
    """Parts one after the other: f = f_n ∘ … ∘ f_1."""

    def __init__(self, *parts: Bijection):
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return compose(x, self.parts, [cond] * len(self.parts))

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return compose(z, [p.inverse for p in reversed(self.parts)], [cond] * len(self.parts))


def squeeze(x: Tensor) -> Tensor:
    """2×2 blocks of pixels become channels: (B, C, H, W) → (B, 4C, H/2, W/2)."""
    return F.pixel_unshuffle(x, 2)


def unsqueeze(x: Tensor) -> Tensor:
    """The inverse of `squeeze`: (B, 4C, H, W) → (B, C, 2H, 2W)."""
    return F.pixel_shuffle(x, 2)


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """The kept C // 2 channels and the rest."""
    kept = x.shape[1] // 2
    return x[:, :kept], x[:, kept:]


class Squeezed(Bijection):
    """A bijection at half the resolution with four times the channels; the shape is kept."""

    def __init__(self, inner: Bijection):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        z, log_det = self.inner(squeeze(x), cond)
        return unsqueeze(z), log_det

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        x, log_det = self.inner.inverse(squeeze(z), cond)
        return unsqueeze(x), log_det


class OnHalf(Bijection):
    """The next level: a bijection of the kept half alone, with the condition one level coarser."""

    def __init__(self, inner: Bijection):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, rest = halves(x)
        z, log_det = self.inner(kept, cond[1:])
        return torch.cat([z, rest], dim=1), log_det

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, rest = halves(z)
        x, log_det = self.inner.inverse(kept, cond[1:])
        return torch.cat([x, rest], dim=1), log_det


def peel(z: Tensor, levels: int, squeezed: bool = True) -> tuple[Tensor, list[Tensor]]:
    """Take shape-preserved noise apart: the coarsest latent, the dropped halves finest first.

    Every level begins with a squeeze, the first one only if ``squeezed``.
    """
    z, dropped = squeeze(z) if squeezed else z, []
    for _ in range(levels - 1):
        z, rest = halves(z)
        z = squeeze(z)
        dropped.append(rest)
    return z, dropped


def unpeel(top: Tensor, dropped: list[Tensor], squeezed: bool = True) -> Tensor:
    """The inverse of `peel`."""
    for rest in reversed(dropped):
        top = torch.cat([unsqueeze(top), rest], dim=1)
    return unsqueeze(top) if squeezed else top
