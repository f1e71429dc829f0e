"""Images at twice or four times their size, by a chain of what each net makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.stage import Stage
from cascade.transforms.dequantise import centre, quantise
from cascade.utils.chunks import chunk_of, in_chunks
from cascade.utils.seeds import sample_noise
from cascade.utils.tensors import load_weights, read_tensors
from cascade.versus.nets import Generator, Shape


class Doubler(Protocol):
    """Integer images uint8 (N, C, h, w) → version ``number`` of each at twice the size.

    With it comes whether each is finite, (N,).
    """

    def __call__(self, low: Tensor, number: int) -> tuple[Tensor, Tensor]: ...


class FlowDoubler:
    """Samples of a stage at a temperature; the noise is that of image and version alone."""

    def __init__(self, stage: Stage, temperature: float, seed: int):
        self.stage, self.temperature, self.seed = stage, temperature, seed

    @torch.no_grad()
    def __call__(self, low: Tensor, number: int) -> tuple[Tensor, Tensor]:
        channels, height, width = low.shape[1:]
        shape, first = (channels, 2 * height, 2 * width), number * len(low)
        noise = sample_noise(shape, self.seed, height, first, len(low))
        y = self.stage.run(self.stage.flow.sample, self.temperature * noise, low)
        image, _ = self.stage.coding.image(y, low)
        return image, y.isfinite().flatten(1).all(1)


class NetDoubler:
    """What a generator predicts: every version is the same."""

    def __init__(self, net: Generator, bits: int):
        self.net, self.bits = net, bits

    @torch.no_grad()
    def __call__(self, low: Tensor, number: int) -> tuple[Tensor, Tensor]:
        device = next(self.net.parameters()).device
        given = centre(low, bits=self.bits).to(device)
        y = in_chunks(self.net, given, size=chunk_of(device)).cpu()
        return quantise(y, self.bits), y.isfinite().flatten(1).all(1)


def enlarge(chain: Sequence[Doubler], low: Tensor, number: int = 0) -> tuple[Tensor, Tensor]:
    """The images that a chain of doublers makes, and whether each is finite all the way."""
    sound = torch.ones(len(low), dtype=torch.bool)
    for double in chain:
        low, finite = double(low, number)
        sound &= finite
    return low, sound


def load_net(file: Path, config: StageConfig, shape: Shape, device: torch.device) -> NetDoubler:
    """The doubler whose weights a file holds; `InputError` where it holds others."""
    residual = bool(getattr(config.model, "residual", False))
    net = Generator(config.data.channels, shape, residual)
    load_weights(net, read_tensors(file), file)
    return NetDoubler(net.to(device).eval(), config.data.bits)
