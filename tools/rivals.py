"""The same architectures in other packages, for `bench.py` to compare with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cascade.config import StageConfig
from stages import InputError


def normflows_glow(config: StageConfig, x: Tensor) -> nn.Module:
    """A Glow of the `normflows` package with a configuration's levels, steps and width.

    Raises `InputError` where the package is not there, or the configuration is not a plain Glow.
    """
    try:
        import normflows as nf
    except ImportError:
        raise InputError("--against normflows needs: pip install 'csrflow[bench]'") from None
    if config.model.kind != "glow" or config.model.classes:
        raise InputError("--against normflows is for a Glow without classes")
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
