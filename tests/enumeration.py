"""Cascades so small that every image can be listed, and exact probabilities by quadrature."""

import math

import numpy as np
import torch
from conftest import randomise

from cascade import Cascade
from cascade.config import Data, GlowModel, SRFlowModel, StageConfig, Train
from cascade.stage import Stage
from cascade.transforms.dequantise import centre, dequantise, expand_bits, log_volume
from stages import Flow, MixtureSettings, glow, srflow
from stages.actnorm import ActNormInv1x1

ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


def all_integers(low: int, high: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Every integer image with values in low..high−1, (count, *shape)."""
    places = math.prod(shape)
    return torch.cartesian_prod(*[torch.arange(low, high)] * places).reshape(-1, *shape)


def cube_probabilities(flow, images: torch.Tensor, bits: int, nodes: int, low=None, label=None):
    """∫ p(y) dy over each image's dequantisation cube, by Gauss-Legendre quadrature."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    dims = images[0].numel()
    grid = torch.cartesian_prod(*[torch.tensor((points + 1) / 2)] * dims).reshape(-1, dims)
    weight = torch.cartesian_prod(*[torch.tensor(weights / 2)] * dims).reshape(-1, dims).prod(1)
    total = torch.zeros(len(images), dtype=torch.float64)
    for u, w in zip(grid, weight, strict=True):
        y = dequantise(images, u.reshape(images.shape[1:]).expand(images.shape), bits)
        total += w * flow.log_prob(y, low, label).exp()
    return total / math.exp(log_volume(dims, bits))


def tiny_cascade(pyramid: str = "bicubic") -> Cascade:
    """1×1 → 2×2, one channel, two bits: every image can be listed."""
    data = {"name": "none", "channels": 1, "bits": 2}
    train = Train(steps=0, batch_size=1, lr=0.0)
    base = randomise(Flow(ActNormInv1x1(1), (1, 1, 1), 0))
    base.body.matrix.entries.data.fill_(1.0)
    base.body.norm.log_scale.data.fill_(1.2)
    base.body.norm.bias.data.fill_(0.1)
    haar = pyramid == "haar"
    options = {"levels": 1, "steps": 1, "width": 4, "details": haar, "residual": not haar}
    top = randomise(srflow((1, 2, 2), **options, **ENCODER), 0.1)
    for part in top.modules():
        if isinstance(part, ActNormInv1x1):
            part.norm.log_scale.data += 0.6 if haar else 0.35  # a few bins wide
    models = GlowModel("glow", pyramid=pyramid), SRFlowModel("srflow", pyramid=pyramid)
    stages = []
    for name, size, model, flow in zip(("base", "top"), (1, 2), models, (base, top), strict=True):
        config = StageConfig(name, 0, Data(size=size, **data), model, train)
        stages.append(Stage(name, config, flow.eval()))
    return Cascade(stages)


def exact_cascade() -> Cascade:
    """2×2 → 4×4 Haar, one channel, one bit, mixtures alone: 65,536 images, each with its P."""
    first = MixtureSettings(components=2, width=4)
    options = {"levels": 1, "steps": 0, "width": 4, "first": first, "bits": 1}
    base = randomise(glow((1, 2, 2), **options), 0.5)
    top = randomise(srflow((1, 4, 4), **options, **ENCODER, details=True), 0.5)
    mixture = {"pyramid": "haar", "first": "mixture"}
    models = GlowModel("glow", **mixture), SRFlowModel("srflow", **mixture)
    stages = []
    for name, size, model, flow in zip(("base", "top"), (2, 4), models, (base, top), strict=True):
        data = Data(name="none", size=size, channels=1, bits=1)
        config = StageConfig(name, 0, data, model, Train(steps=0, batch_size=1, lr=0.0))
        stages.append(Stage(name, config, flow.eval(), chunk=4096))
    return Cascade(stages)


def condition(low: torch.Tensor) -> torch.Tensor:
    return centre(low, torch.float64, 2)


def two_bit_images() -> torch.Tensor:
    """Two-bit 2×2 images as 8-bit ones: more than a chunk, all different."""
    return expand_bits(all_integers(0, 4, (1, 2, 2))[::9].to(torch.uint8), 2)
