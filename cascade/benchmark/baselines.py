"""The same architectures elsewhere and otherwise, for `bench.py` to compare with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.building import build, channels_last
from cascade.config import StageConfig
from stages import Flow, InputError, convolve
from stages.actnorm import ActNormInv1x1
from stages.bijection import Bijection, Chain, Cond, Split, Squeeze
from stages.coupling import AffineCoupling, Parameters, ScaleFunction, scale_function
from stages.nets import CouplingNet
from stages.prior import SplitPrior


def normflows_glow(config: StageConfig, x: Tensor) -> Any:
    """A Glow of the `normflows` package with a configuration's levels, steps and width.

    Raises `InputError` where the package is not there, or the configuration is not a plain Glow.
    """
    try:
        import normflows as nf
    except ImportError:
        raise InputError("--against normflows needs: pip install 'csrflow[bench]'") from None
    model = config.model
    plain = model.first == "none" and model.coupling == "affine" and model.nets == "conv"
    if config.upsamples or model.classes or not plain or model.dequantise != "uniform":
        raise InputError("--against normflows is for a Glow as published, without classes")
    levels, channels, size = config.model.levels, config.data.channels, config.data.size
    bases, flows, merges = [], [], []
    for level in range(levels):
        inside = channels * 2 ** (levels + 1 - level)
        side = size // 2 ** (levels - level)
        blocks = [nf.flows.GlowBlock(inside, config.model.width) for _ in range(config.model.steps)]
        flows.append([*blocks, nf.flows.Squeeze()])
        if level:
            merges.append(nf.flows.Merge())
            shape = (inside // 2, side, side)
        else:
            shape = (inside, side, side)
        bases.append(nf.distributions.DiagGaussian(shape))
    torch.manual_seed(0)
    model = nf.MultiscaleFlow(bases, flows, merges, class_cond=False)
    model.forward_kld(x)  # its ActNorm is fitted to the first batch
    return model


def with_the_library(operation: Callable[[], object]) -> None:
    """Run an operation with the library's own convolutions on every device."""
    with patch.object(convolve, "MAX_IM2COL", 0):
        operation()


def plain_srflow(config: StageConfig) -> Flow:
    """The SRFlow of a configuration as it is usually written: every step reads the features.

    Its couplings convolve the kept half and the features together, its injectors the features, at
    every step; actnorm and 1×1 are two maps, each with its own determinant and inverse.
    """
    model: Any = config.model  # an SRFlow's has more
    usual = model.coupling == "affine" and model.nets == "conv" and not config.has_mixture
    usual = usual and config.upsamples and model.encoder == "rrdb" and model.dequantise == "uniform"
    if not usual or config.of_details or model.conditional_prior:
        raise InputError(
            "--against plain is for an SRFlow as published, with model.pyramid=bicubic and no "
            "conditional_prior"
        )
    flow = build(config)
    scale_fn, features = scale_function(model.squish, model.squish_range), flow.encoder.channels

    def step(channels: int) -> list[Bijection]:
        couple = _PlainCoupling(channels, model.width, scale_fn, features)
        return [
            _PlainActNorm1x1(channels),
            _PlainInjector(channels, model.width, scale_fn, features),
            couple,
        ]

    def level(channels: int, left: int) -> Bijection:
        parts: list[Bijection] = []
        parts += [_PlainActNorm1x1(channels) for _ in range(model.transition_steps)]
        parts += [part for _ in range(model.steps) for part in step(channels)]
        if left == 1:
            return Chain(*parts)
        deeper = Squeeze(level(4 * (channels // 2), left - 1))
        return Chain(*parts, SplitPrior(channels, model.width), Split(deeper))

    flow.body = Squeeze(level(4 * config.data.channels, model.levels))
    return channels_last(flow)


class _PlainActNorm1x1(ActNormInv1x1):
    """ActNorm, then a 1×1 convolution."""

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        weight = self.matrix.weight()
        log_det = torch.linalg.slogdet(weight).logabsdet + self.norm.log_scale.sum()
        y = F.conv2d(self.norm(x), weight[:, :, None, None])
        return y, (x.shape[2] * x.shape[3] * log_det).expand(len(x))

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        weight = self.matrix.weight()
        log_det = torch.linalg.slogdet(weight).logabsdet + self.norm.log_scale.sum()
        backward = torch.linalg.inv(weight.double()).to(z.dtype)
        x = F.conv2d(z, backward[:, :, None, None])
        x = x * (-self.norm.log_scale).exp() - self.norm.bias
        return x, -(x.shape[2] * x.shape[3] * log_det).expand(len(x))


class _PlainCoupling(AffineCoupling):
    def __init__(self, channels: int, width: int, scale_fn: ScaleFunction, features: int):
        super().__init__(channels, width, scale_fn)
        kept = channels // 2
        self.net = CouplingNet(kept + features, width, 2 * (channels - kept))

    def _predict(self, first: Tensor, cond: Cond) -> Parameters:
        return self._parameters_of(self.net(torch.cat([first, cond[0]], dim=1)).to(first.dtype))


class _PlainInjector(Bijection):
    def __init__(self, channels: int, width: int, scale_fn: ScaleFunction, features: int):
        super().__init__()
        self.scale_fn, self.net = scale_fn, CouplingNet(features, width, 2 * channels)

    def _shift_scale(self, cond: Cond) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(cond[0]).chunk(2, dim=1)
        return shift, self.scale_fn(raw)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale = self._shift_scale(cond)
        return scale * x + shift, scale.log().flatten(1).sum(1)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale = self._shift_scale(cond)
        return (z - shift) / scale, -scale.log().flatten(1).sum(1)
