"""Stages with randomised weights, made without training: seconds saved, real otherwise."""

from pathlib import Path

import torch
from conftest import ROOT, randomise
from torch import Tensor

from cascade import Cascade
from cascade.building import build
from cascade.config import load_config, save_config
from cascade.likelihood import Report
from cascade.record import Record
from cascade.stage import Stage, load_stage
from cascade.utils.tensors import write_tensors

SMALL = ("model.steps=1", "model.width=8", "data.size=16")
FEW_LEVELS = ("model.steps=1", "model.width=8", "model.levels=1")
OF_A_KIND = {  # of cascades: whose configurations, and what is changed
    "bicubic": ("mnist5k", *FEW_LEVELS),
    "haar": ("mnist5k-haar", "model.first=none", *FEW_LEVELS),
    "mixture": ("mnist5k-haar", "model.mixture_width=8", "model.steps=0", "model.levels=1"),
}
ANIMALS = ("cat", "dog", "1", "guinea pig")  # 1 is also the number of a dog
# kind, classes, bits
KINDS = [("haar", 10, 8), ("haar", 0, 8), ("bicubic", 10, 5), ("bicubic", 0, 8), ("mixture", 10, 5)]


def report_of(nats: Tensor, sizes: list[int], posterior: Tensor | None = None) -> Report:
    """A report of an exact cascade over the Haar pyramid whose stages are of these sizes."""
    return Report(
        names=["base", "top"][: len(sizes)],
        sizes=sizes,
        dimensions=sum(sizes),
        nats=nats,
        posterior=posterior,
        pyramid="haar",
        bits=8,
        dequantised=[],
        bounded=True,
        given="",
        values=sizes,
    )


def stage_folder(folder: Path, *overrides: str, config: str = "photos/srf2x") -> Path:
    """A stage of a configuration, made small, its weights a little away from a fresh one's."""
    settings = load_config(ROOT / "configs" / f"{config}.yaml", [*SMALL, *overrides])
    folder.mkdir(parents=True)
    save_config(settings, folder / "config.yaml")
    flow = randomise(build(settings), 0.05).float()
    write_tensors(flow.state_dict(), folder / "model.safetensors")
    return folder


def small_stage(folder: Path, *overrides: str) -> Stage:
    """The same, read in float64, to be given images one by one."""
    stage = load_stage(stage_folder(folder, *overrides), dtype="float64")
    return stage.replace(chunk=1)


def random_cascade(kind: str, classes: int, bits: int = 8) -> Cascade:
    """Three stages, 8, 16 and 32, with random weights; labels move their latents far."""
    folder, *changes = OF_A_KIND[kind]
    stages = []
    for name in ("glow8", "srf16", "srf32"):
        settings = [*changes, f"model.classes={classes}", f"data.bits={bits}"]
        config = load_config(ROOT / "configs" / folder / f"{name}.yaml", settings)
        flow = randomise(build(config), 0.05, seed=len(stages)).float().eval()
        if classes:
            table = flow.prior.table if flow.has_prior else flow.mixture.labels
            table.weight.data.normal_()
        stages.append(Stage(name, config, flow))
    return Cascade(stages)


def animals(folder: Path) -> Path:
    """A folder of a cascade of three stages with random weights, whose classes have names."""
    cascade = random_cascade("mixture", len(ANIMALS))
    record = Record(list(ANIMALS), [3] * len(ANIMALS), "0f" * 32)
    Cascade([stage.replace(record=record) for stage in cascade.stages]).save(folder)
    return folder


def random_images(count: int, bits: int = 8) -> Tensor:
    """What an image of so many bits may hold, anywhere between noise and a flat grey."""
    cascade = random_cascade("bicubic", 0, bits)
    smooth = torch.rand(count, 1, 32, 32, generator=torch.Generator().manual_seed(count))
    contrast = torch.linspace(0.05, 1, count)[:, None, None, None]
    return cascade.resize(((smooth * contrast) * 255).to(torch.uint8))
