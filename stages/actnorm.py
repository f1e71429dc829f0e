"""Activation normalisation (ActNorm) and the invertible 1×1 convolution.

Source: Glow, sections 3.1 (ActNorm) and 3.2 (invertible 1×1 convolution), and table 1,
https://arxiv.org/abs/1807.03039.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond, Reconstruction, joined
from stages.convolve import Layer, convolve

Constants = tuple[Tensor, Tensor, Tensor]  # see `ActNormInv1x1.affine_constants`


class ActNorm(nn.Module):
    """y = (x + b)·exp(s) per channel, initialised so that y has mean 0 and deviation 1.

    The initialisation is an explicit call (`initialise`), never a side effect of `forward`; the
    buffer ``fitted`` records that it was done. This module is not a `Bijection`: its
    log-determinant H·W·Σ s is part of `ActNormInv1x1`, and inside nets none is needed.
    """

    fitted: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.fitted: Tensor
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.register_buffer("fitted", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.bias) * self.log_scale.exp()

    @torch.no_grad()
    def fit(self, x: Tensor) -> None:
        """Set b and s from mean and deviation of ``x`` (B, C, H, W); only the first call counts."""
        if self.fitted:
            return
        deviation, mean = torch.std_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        self.bias.copy_(-mean)
        self.log_scale.copy_(-(deviation + 1e-6).log())
        self.fitted.fill_(True)


class ScaledConv(nn.Module, ABC):
    """A convolution whose output channels are scaled: (W∗x + b)·s = (W·s)∗x + b·s.

    It is computed in the second form: the output, which has many channels, is written and stored
    only once.
    """

    conv: nn.Conv2d
    rate = 1.0

    @abstractmethod
    def shift_and_log_scale(self) -> tuple[Tensor, Tensor]:
        """b and (log s) / ``rate``, each of as many values as there are output channels."""

    @staticmethod
    def fold(convs: Sequence[ScaledConv]) -> list[Layer]:
        """Weight W·s and bias b·s of several, which are of one class and shape, in one call.

        Under autocast they are of its type.
        """
        shifts, log_scales = zip(*(conv.shift_and_log_scale() for conv in convs), strict=True)
        weights = [conv.conv.weight for conv in convs]
        count, outputs, device = len(convs), len(weights[0]), weights[0].device.type
        log_scale = joined(log_scales).view(count, outputs)
        scale = (log_scale if convs[0].rate == 1 else convs[0].rate * log_scale).exp()
        weight = joined(weights) * scale.view(-1, 1, 1, 1)
        bias = joined(shifts).view(count, outputs) * scale
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            weight, bias = weight.to(dtype), bias.to(dtype)
        return list(zip(weight.split(outputs), bias.unbind(), strict=True))

    def layer(self) -> Layer:
        """Weight and bias of the equivalent convolution."""
        return self.fold([self])[0]


class ConvActNorm(ScaledConv):
    """A convolution without bias, followed by ActNorm, computed as one convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, groups: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(
            inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False
        )
        self.norm = ActNorm(outputs)
        nn.init.normal_(self.conv.weight, std=0.05)

    def fit(self, x: Tensor) -> None:
        """Fit the ActNorm to the convolution of ``x``."""
        self.norm.fit(self.conv(x))

    def shift_and_log_scale(self) -> tuple[Tensor, Tensor]:
        return self.norm.bias, self.norm.log_scale

    def forward(self, x: Tensor) -> Tensor:
        return convolve(x, self.layer(), groups=self.conv.groups)


class InvertibleMatrix(nn.Module, ABC):
    """The C×C matrix W of a 1×1 convolution, and log |det W|."""

    @abstractmethod
    def weight(self) -> Tensor:
        """W, (C, C)."""

    @staticmethod
    @abstractmethod
    def log_dets(matrices: Sequence[InvertibleMatrix], weights: Tensor) -> Tensor:
        """log |det W| (K,) of K matrices, given their weights (K, C, C)."""


class DenseMatrix(InvertibleMatrix):
    """All C² entries are parameters. The initial value is a random rotation."""

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        self.entries = nn.Parameter(rotation.contiguous())

    def weight(self) -> Tensor:
        return self.entries

    @staticmethod
    def log_dets(matrices: Sequence[InvertibleMatrix], weights: Tensor) -> Tensor:
        return torch.linalg.slogdet(weights).logabsdet


class LUMatrix(InvertibleMatrix):
    """W = P·L·(U + diag(s)), log |det W| = Σ log |s|. The initial value is a random rotation.

    P and the signs of s are fixed; L has a unit diagonal, U a zero diagonal. The parameter is
    log |s|, so no s can become 0. Source: Glow, section 3.2, equations 10 and 11.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int):
        super().__init__()
        rotation, _ = torch.linalg.qr(torch.randn(channels, channels))
        permutation, lower, upper = torch.linalg.lu(rotation)
        self.permutation: Tensor
        self.sign: Tensor
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.contiguous())
        self.register_buffer("sign", diagonal.sign())
        self.log_size = nn.Parameter(diagonal.abs().log())
        self.lower = nn.Parameter(lower.tril(-1).contiguous())
        self.upper = nn.Parameter(upper.triu(1).contiguous())

    def weight(self) -> Tensor:
        lower = self.lower.tril(-1) + torch.eye(len(self.lower), device=self.lower.device).to(
            self.lower
        )
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_size.exp())
        return self.permutation @ lower @ upper

    @staticmethod
    def log_dets(matrices: Sequence[Any], weights: Tensor) -> Tensor:
        return torch.stack([matrix.log_size.sum() for matrix in matrices])


MATRICES = {"dense": DenseMatrix, "lu": LUMatrix}


def exact_inverse(weights: Tensor) -> Tensor:
    """Inverses of matrices (..., C, C), computed in float64; on the CPU where a GPU has none."""
    exact = weights.cpu() if weights.device.type == "mps" else weights
    return torch.linalg.inv(exact.double()).to(weights)


class ActNormInv1x1(Bijection):
    """ActNorm and an invertible 1×1 convolution as one affine map of every pixel: y = A x + c.

    A = W·diag(exp(s)), c = A b, log_det = H·W·(Σ s + log |det W|). It is computed as a matrix
    product, not as a convolution, and so keeps the precision of the image under autocast and on
    GPUs that round convolutions to TF32.

    Args:
        channels: C.
        matrix: ``dense`` or ``lu``, the parametrisation of W.

    ``cond`` of `forward` and `inverse` may hold what `conditions` gives for this layer and this
    direction; otherwise it is computed.
    """

    def __init__(self, channels: int, matrix: str = "dense"):
        super().__init__()
        self.norm = ActNorm(channels)
        self.matrix = MATRICES[matrix](channels)

    def fit(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor]:
        """Fit the ActNorm to ``x``; return `forward`'s arguments without the outdated constants."""
        self.norm.fit(x)
        return (x,)

    def given(self, cond: Cond) -> Cond:
        return ()

    @staticmethod
    def affine_constants(layers: Sequence[ActNormInv1x1], inverse: bool = False) -> Constants:
        """A (K, C, C), c (K, C) and log |det A| per pixel, (K,), of K layers of C channels each.

        The determinants and the inverses (in float64) of all layers are computed in one call.

        Args:
            layers: the layers.
            inverse: compute A⁻¹, −b and −log |det A| instead.
        """
        bias = joined([layer.norm.bias for layer in layers]).flatten(1)
        log_scale = joined([layer.norm.log_scale for layer in layers]).flatten(1)
        with torch.autocast(bias.device.type, enabled=False):
            weights = joined([layer.matrix.weight() for layer in layers])
            weights = weights.view(len(layers), *weights.shape[1:] * 2)
            log_det = layers[0].matrix.log_dets([layer.matrix for layer in layers], weights)
            log_det = log_det + log_scale.sum(1)
            if inverse:
                inverted = exact_inverse(weights)
                affine = (-log_scale).exp()[:, :, None] * inverted
                shift, log_det = -bias, -log_det
            else:
                affine = weights * log_scale.exp()[:, None, :]
                shift = (affine @ bias[:, :, None])[:, :, 0]
        return affine, shift, log_det

    @staticmethod
    def conditions(constants: Constants, x: Tensor) -> list[Cond]:
        """A, c and log_det (B,) of each layer, for images like x (B, C, H, W)."""
        affine, shift, log_det = constants
        log_dets = (x.shape[2] * x.shape[3] * log_det)[:, None].expand(-1, len(x))
        return list(zip(affine.unbind(), shift.unbind(), log_dets.unbind(), strict=True))

    def _affine(self, x: Tensor, cond: Cond, inverse: bool) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, enabled=False):
            if not cond or cond[0].dim() == 4:  # nothing, or feature maps: not what Steps computes
                cond = self.conditions(self.affine_constants([self], inverse), x)[0]
            affine, shift, log_det = cond
            y = F.linear(x.permute(0, 2, 3, 1), affine, shift).permute(0, 3, 1, 2)
        return y, log_det

    def reconstruct(self, z: Tensor, cond: Cond) -> Reconstruction:
        affine, shift, _ = cond
        with torch.no_grad(), torch.autocast(z.device.type, enabled=False):
            inverted = exact_inverse(affine)
            x = F.linear(z.permute(0, 2, 3, 1) - shift, inverted).permute(0, 3, 1, 2)
        return [x.requires_grad_()], *self(x, cond)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._affine(x, cond, inverse=False)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self._affine(z, cond, inverse=True)


@torch.no_grad()
def initialise(module: nn.Module, *inputs: Tensor | None) -> None:
    """Data-dependent initialisation: fit every ActNorm in ``module`` in one pass over one batch.

    Each layer with a method ``fit`` is fitted to the output of the layers before it, which are
    fitted already. With several processes, call it with the same batch on each of them, before the
    module is copied or wrapped.

    Args:
        module: a `StageLoss`, the body of a `Flow`, or any other module.
        inputs: the arguments of the module; images (B, C, H, W), of a large batch.
    """
    layers = [layer for layer in module.modules() if hasattr(layer, "fit")]
    hooks = [layer.register_forward_pre_hook(lambda m, args: m.fit(*args)) for layer in layers]
    try:
        module(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
