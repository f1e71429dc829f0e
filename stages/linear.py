"""The linear bijections of a step: activation normalisation and the invertible 1×1 convolution."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond
from stages.norm import ChannelAffine


class ActNorm(Bijection):
    """y = (x + b)·exp(s) per channel; log_det = H·W·Σ s."""

    def __init__(self, channels: int):
        super().__init__()
        self.affine = ChannelAffine(channels)

    def _log_det(self, x: Tensor) -> Tensor:
        pixels = x.shape[2] * x.shape[3]
        return (pixels * self.affine.log_scale.sum()).expand(len(x))

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self.affine(x), self._log_det(x)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self.affine.inverse(z), -self._log_det(z)


class PixelwiseMatrix(Bijection, ABC):
    """y = W x at every pixel; log_det = H·W·log|det W|.

    A matrix product, not a convolution: it keeps the image's own precision, under autocast and on
    GPUs that round convolutions to TF32. Source: Glow, section 3.2.
    """

    @abstractmethod
    def matrix(self) -> tuple[Tensor, Tensor]:
        """W (C, C), and log|det W|."""

    def _mapped(self, x: Tensor, invert: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            weight, log_det = self.matrix()
            if invert:
                weight, log_det = torch.linalg.inv(weight.double()).to(x.dtype), -log_det
            y = F.linear(x.permute(0, 2, 3, 1), weight).permute(0, 3, 1, 2)
        return y, (x.shape[2] * x.shape[3] * log_det).expand(len(x))

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._mapped(x, invert=False)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._mapped(z, invert=True)


class InvertibleConv(PixelwiseMatrix):
    """The 1×1 convolution whose parameters are W itself, a random rotation at the start."""

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.weight = nn.Parameter(rotation.contiguous())

    def matrix(self) -> tuple[Tensor, Tensor]:
        return self.weight, torch.linalg.slogdet(self.weight).logabsdet


class LUConv(PixelwiseMatrix):
    """The 1×1 convolution as W = P·L·(U + diag(s)), of a random rotation at the start.

    P and the signs of s stay; L has a unit diagonal, U none. log|det W| = Σ log|s| needs no
    determinant, and no s can reach 0. Source: Glow, section 3.2.
    """

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

    def matrix(self) -> tuple[Tensor, Tensor]:
        lower = self.lower.tril(-1) + torch.eye(len(self.lower)).to(self.lower)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_size.exp())
        return self.permutation @ lower @ upper, self.log_size.sum()


PERMUTATIONS = {"dense": InvertibleConv, "lu": LUConv}
