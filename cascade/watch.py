"""What is looked at while a stage trains: bits/dim of held-out images, and pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade.augment import restore
from cascade.batches import Batches
from cascade.coding import coding
from cascade.config import StageConfig
from cascade.data import open_images
from cascade.dequantise import expand_bits, quantise
from cascade.grid import save_grid
from cascade.images import ImageSource
from cascade.seeds import sample_noise
from stages import Flow, InputError
from stages.unwhitened import unwhitened

GRID = 8  # sample pictures show 8×8 images


def density_bpd(nats: Tensor, y: Tensor, bits: int) -> Tensor:
    """Bits/dim of integers from log-densities (B,) of their dequantised y (B, C, H, W)."""
    return bits - nats / (y[0].numel() * math.log(2))


class HeldOut:
    """Held-out images of a stage: the validation split, or test where training uses both others."""

    def __init__(self, config: StageConfig, device: torch.device):
        self.split = "test" if config.data.split == "trainval" else "validation"
        self.source = open_stage_images(config, self.split)
        batches = Batches(self.source, config)
        self.config, self.device = config, device
        self.batch = batches.fixed(max(config.train.validate_images, GRID * GRID)).to(device)

    @torch.no_grad()
    def bpd(self, flow: Flow) -> float:
        """Mean bits/dim of the held-out images under a stage's flow."""
        found = []
        for inputs, _ in self._parts():
            found.append(density_bpd(flow.log_prob(*inputs), inputs[0], self.config.data.bits))
        return torch.cat(found).mean().item()

    @torch.no_grad()
    def l1(self, module: nn.Module) -> float:
        """Mean |prediction − target| of a net that predicts the target from the low image."""
        found = [(module(low) - target).abs() for (target, low, _), _ in self._parts()]
        return torch.cat(found).mean().item()

    @torch.no_grad()
    def failures(self, flow: Flow) -> dict[str, float]:
        """Shares of held-out images whose noisy reconstruction f⁻¹(f(x) + σ·ε) fails, by σ.

        For each of ``train.watch_sigmas``, with whitened and with raw latents: ``not_finite``, and
        ``exploded``, which also counts values that `restore` would replace.
        """
        found = {}
        for sigma in self.config.train.watch_sigmas:
            for scaling, latents in (("whitened", flow), ("raw", unwhitened(flow))):
                finite, exploded = self._reconstructed(latents, sigma)
                found[f"not_finite_{scaling}_{sigma:g}"] = (~finite).double().mean().item()
                found[f"exploded_{scaling}_{sigma:g}"] = exploded.double().mean().item()
        return found

    def _reconstructed(self, flow: Flow, sigma: float) -> tuple[Tensor, Tensor]:
        """Whether each held-out image's noisy reconstruction is finite, and whether it explodes."""
        limit = self.config.augment.limit * coding(self.config).span
        noise = sample_noise(flow.shape, self.config.seed, 1, 0, len(self.batch.target))
        finite, exploded = [], []
        for (target, low, label), part in self._parts():
            z = flow.noise_of(target, low, label)
            back = flow.decode(z + sigma * noise[part].to(target), low, label)
            finite.append(back.isfinite().flatten(1).all(1))
            exploded.append(restore(back, target, limit)[1])
        return torch.cat(finite), torch.cat(exploded)

    def _parts(self) -> Iterator[tuple[list[Tensor | None], slice]]:
        """The held-out images batch by batch, and which they are."""
        size = self.config.train.batch_size
        for start in range(0, len(self.batch.target), size):
            part = slice(start, start + size)
            yield [None if t is None else t[part] for t in self.batch.parts], part

    @torch.no_grad()
    def picture(self, flow: Flow, file: Path) -> None:
        """Write a grid of samples: a class a row from a Glow, held-out images' from an SRFlow."""
        count = min(GRID * GRID, len(self.batch.target))
        low, label = self.batch.low, self.batch.label
        if low is None and label is not None:
            label = torch.arange(count, device=self.device) // GRID % self.config.model.classes
        low, label = (None if t is None else t[:count] for t in (low, label))
        noise = sample_noise(flow.shape, self.config.seed, 0, 0, count).to(self.device)
        y = flow.sample(noise, low, label).cpu()
        bits = self.config.data.bits
        low = None if low is None else quantise(low.cpu(), bits)
        image, _ = coding(self.config).image(y, low)
        save_grid(expand_bits(image, bits), file, GRID)


def open_stage_images(config: StageConfig, split: str) -> ImageSource:
    """One split of a stage's data set, checked against what the stage needs."""
    data, classes = config.data, config.model.classes
    source = open_images(data.name, split, data.channels, data.resize, data.skip_bad, data.root)
    name = Path(config.out).name
    check_images(name, data.size, data.name, source.shape)
    if classes and source.labels is None:
        raise InputError(f"stage {name} has {classes} classes, but {data.name} has no labels")
    if classes and int(source.labels.max()) >= classes:
        raise InputError(
            f"stage {name} has {classes} classes, "
            f"but {data.name} has labels up to {int(source.labels.max())}"
        )
    return source


def check_images(stage: str, size: int, data: str, shape: tuple[int, int, int]) -> None:
    """Raise `InputError` unless images (C, H, W) can be halved to the stage's size."""
    height, width = shape[1:]
    factor = height // size if height % size == 0 else 0
    if height != width or factor == 0 or factor & (factor - 1):
        raise InputError(
            f"stage {stage} expects {size}x{size} images (or 2, 4, 8, ... times that), "
            f"{data} holds {height}x{width}; bring them to size with --resize {size} "
            f"(data.resize={size})"
        )
