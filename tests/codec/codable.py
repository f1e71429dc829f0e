"""Cascades of mixtures alone, with random weights, and images for them."""

from pathlib import Path

import torch
from conftest import ROOT, randomise
from torch import Tensor

from cascade import Cascade
from cascade.building import build
from cascade.config import load_config
from cascade.manifest import write_manifest
from cascade.stage import Stage

SMALL = ("model.classes=0", "model.mixture_width=8", "model.mixture_blocks=1")
SMALL_DETAILS = ("model.encoder_features=8", "model.encoder_blocks=1")


def codable(channels: int = 1, *more: str, scale: float = 0.1) -> Cascade:
    """Two stages, 8 and 16."""
    torch.manual_seed(0)
    stages = []
    for name in ("glow8", "srf16"):
        settings = [*SMALL, *(SMALL_DETAILS if stages else ()), f"data.channels={channels}", *more]
        config = load_config(ROOT / "configs" / "mnist5k-haar" / f"{name}.yaml", settings)
        flow = randomise(build(config), scale, seed=len(stages)).float().eval()
        stages.append(Stage(name, config, flow, digest=f"{name}-{channels}"))
    return Cascade(stages)


def codable_folder(folder: Path, channels: int = 1) -> Path:
    """The same on disk."""
    cascade = codable(channels)
    for stage in cascade.stages:
        stage.save(folder / stage.name)
    write_manifest(folder, [stage.name for stage in cascade.stages], "haar")
    return folder


def pictures(count: int, channels: int = 1, size: int = 16) -> Tensor:
    """Images uint8 (count, C, S, S) of all kinds: slopes, noise, black, white, stripes."""
    torch.manual_seed(0)
    slope = torch.arange(size) * 8
    kinds = [
        (slope[:, None] + slope).expand(channels, -1, -1),
        torch.randint(256, (channels, size, size)),
        torch.zeros(channels, size, size),
        torch.full((channels, size, size), 255),
        (torch.arange(size) % 2 * 255).expand(channels, size, -1),
    ]
    return torch.stack([kinds[i % len(kinds)] for i in range(count)]).to(torch.uint8)
