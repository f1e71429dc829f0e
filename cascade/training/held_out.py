"""What is looked at while a stage trains: bits/dim of held-out images, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cascade.config import StageConfig
from cascade.data.batches import Batches
from cascade.data.sources import ImageSource
from cascade.figures.grid import save_grid
from cascade.training.augmentation import restore
from cascade.training.joint import JointLoss
from cascade.transforms.coding import coding
from cascade.transforms.dequantise import density_bpd, expand_bits, quantise
from cascade.utils.seeds import sample_noise
from stages import Flow, StageLoss
from stages.flow import without_priors

GRID = 8  # sample pictures show 8×8 images


def held_out_split(config: StageConfig) -> str:
    """The validation split, or test where training uses both others."""
    return "test" if config.data.split == "trainval" else "validation"


class HeldOut:
    """Held-out images of a stage, ``source``: those of its `held_out_split`."""

    def __init__(self, config: StageConfig, source: ImageSource, device: torch.device):
        self.split, self.source = held_out_split(config), source
        batches = Batches(source, config)
        self.config, self.device = config, device
        self.batch = batches.fixed(max(config.train.validate_images, GRID * GRID)).to(device)

    @torch.no_grad()
    def bpd(self, model: StageLoss | JointLoss) -> float:
        """Mean bits/dim of the held-out images: a stage's own, or two stages' joint ones."""
        result = []
        for inputs, _ in self._parts():
            result.append(density_bpd(model.log_prob(*inputs), inputs[0], self.config.data.bits))
        return torch.cat(result).mean().item() / self.config.share

    @torch.no_grad()
    def l1(self, module: nn.Module) -> float:
        """Mean |prediction − target| of a net that predicts the target from the low image."""
        result = [(module(low) - target).abs() for (target, low, _), _ in self._parts()]
        return torch.cat(result).mean().item()

    @torch.no_grad()
    def failures(self, flow: Flow) -> dict[str, float]:
        """Shares of held-out images whose noisy reconstruction f⁻¹(f(x) + σ·ε) fails, by σ.

        For each of ``train.watch_sigmas``, with whitened and with raw latents: ``not_finite``, and
        ``exploded``, which also counts values that `restore` would replace.
        """
        result = {}
        for sigma in self.config.train.watch_sigmas:
            for scaling, latents in (("whitened", flow), ("raw", without_priors(flow))):
                finite, exploded = self._reconstructed(latents, sigma)
                result[f"not_finite_{scaling}_{sigma:g}"] = (~finite).double().mean().item()
                result[f"exploded_{scaling}_{sigma:g}"] = exploded.double().mean().item()
        return result

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

    def _parts(self) -> Iterator[tuple[list[Any], slice]]:
        """The held-out images batch by batch, and which they are."""
        size = self.config.train.batch_size
        for start in range(0, len(self.batch.target), size):
            part = slice(start, start + size)
            yield [None if t is None else t[part] for t in self.batch.parts], part

    @torch.no_grad()
    def picture(self, flow: Flow, file: Path) -> None:
        """Write a grid of samples: a class a row from a Glow, held-out images' from an SRFlow."""
        count = min(GRID * GRID, len(self.batch.target))
        target, low, label = self.batch.parts
        if flow.downscaler is not None:
            low = flow.downscaler(target, low)
        if low is None and label is not None:
            label = torch.arange(count, device=self.device) // GRID % self.config.model.classes
        low, label = (None if t is None else t[:count] for t in (low, label))
        noise = sample_noise(flow.shape, self.config.seed, 0, 0, count).to(self.device)
        y = flow.sample(noise, low, label).cpu()
        bits = self.config.data.bits
        low = None if low is None else quantise(low.cpu(), bits)
        image, _ = coding(self.config).image(y, low)
        save_grid(expand_bits(image, bits), file, GRID)
