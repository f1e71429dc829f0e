"""The linear bijection of a step: activation normalisation and the invertible 1×1 convolution."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond, Rewound
from stages.norm import ChannelAffine


class Matrix(nn.Module, ABC):
    """The C×C matrix W of a 1×1 convolution, and log|det W|."""

    @abstractmethod
    def weight(self) -> Tensor:
        """W (C, C)."""

    @staticmethod
    @abstractmethod
    def log_dets(matrices: Sequence[Matrix], weights: Tensor) -> Tensor:
        """log|det W| of several matrices (K,), given their weights (K, C, C)."""


class Dense(Matrix):
    """A matrix whose entries are the parameters, a random rotation at the start."""

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.entries = nn.Parameter(rotation.contiguous())

    def weight(self) -> Tensor:
        return self.entries

    @staticmethod
    def log_dets(matrices: Sequence[Matrix], weights: Tensor) -> Tensor:
        return torch.linalg.slogdet(weights).logabsdet


class LU(Matrix):
    """A matrix W = P·L·(U + diag(s)), of a random rotation at the start.

    P and the signs of s stay; L has a unit diagonal, U none. log|det W| = Σ log|s| needs no
    determinant, and no s can reach 0. Source: Glow, section 3.2.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.contiguous())
        self.register_buffer("sign", diagonal.sign())
        self.log_size = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1).contiguous())
        self.upper = nn.Parameter(upper.triu(1).contiguous())

    def weight(self) -> Tensor:
        lower = self.lower.tril(-1) + torch.eye(len(self.lower)).to(self.lower)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_size.exp())
        return self.permutation @ lower @ upper

    @staticmethod
    def log_dets(matrices: Sequence[Any], weights: Tensor) -> Tensor:
        return torch.stack([matrix.log_size.sum() for matrix in matrices])


MATRICES = {"dense": Dense, "lu": LU}


class Mix(Bijection):
    """ActNorm and 1×1 convolution as one affine map of every pixel: y = A x + c.

    A = W·diag(exp(s)), c = A b, log_det = H·W·(Σ s + log|det W|). ``cond`` may hold what `folded`
    made of it before: A, c and log|det A|, or those of the inverse. A matrix product, not a
    convolution: it keeps the image's own precision, under autocast and on GPUs that round
    convolutions to TF32. Source: Glow, section 3.
    """

    def __init__(self, channels: int, matrix: str = "dense"):
        super().__init__()
        self.norm = ChannelAffine(channels)
        self.matrix = MATRICES[matrix](channels)

    def fit(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor]:
        """Fit the normalisation to ``x``, once; inputs to go on with, without what was folded."""
        self.norm.fit(x)
        return (x,)

    @staticmethod
    def folded(mixes: Sequence[Mix], inverse: bool = False) -> list[Cond]:
        """A (C, C), c (C,) and log|det A| per pixel, (), of several mixes of as many channels.

        One determinant, and one float64 inverse, for all of them at once.
        """
        bias = torch.stack([mix.norm.bias.flatten() for mix in mixes])
        log_scale = torch.stack([mix.norm.log_scale.flatten() for mix in mixes])
        with torch.autocast(bias.device.type, enabled=False):
            weights = torch.stack([mix.matrix.weight() for mix in mixes])
            log_det = mixes[0].matrix.log_dets([mix.matrix for mix in mixes], weights)
            log_det = log_det + log_scale.sum(1)
            if inverse:
                backward = torch.linalg.inv(weights.double()).to(weights.dtype)
                affine = (-log_scale).exp()[:, :, None] * backward
                shift, log_det = -bias, -log_det
            else:
                affine = weights * log_scale.exp()[:, None, :]
                shift = (affine @ bias[:, :, None])[:, :, 0]
        return list(zip(affine.unbind(), shift.unbind(), log_det.unbind(), strict=True))

    def _mapped(self, x: Tensor, cond: Cond, inverse: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            weight, shift, log_det = cond or self.folded([self], inverse)[0]
            y = F.linear(x.permute(0, 2, 3, 1), weight, shift).permute(0, 3, 1, 2)
        return y, (x.shape[2] * x.shape[3] * log_det).expand(len(x))

    def rewind(self, z: Tensor, cond: Cond) -> Rewound:
        weight, shift, _ = cond
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            backward = torch.linalg.inv(weight.double()).to(weight.dtype)
            x = F.linear(z.permute(0, 2, 3, 1) - shift, backward).permute(0, 3, 1, 2)
        return [x.requires_grad_()], *self(x, cond)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._mapped(x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._mapped(z, cond, inverse=True)
