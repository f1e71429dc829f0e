"""The model card: a `README.md` in the folder of a finished stage."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cascade.config import StageConfig, Train
from cascade.training.joint import JointLoss
from cascade.training.metrics_log import read_metrics
from cascade.training.stage_data import StageData
from cascade.utils.files import whole
from stages import StageLoss

PACKAGES = ("torch", "accelerate", "numpy", "csrflow")


def write_card(config: StageConfig, images: StageData, trained: StageLoss | JointLoss) -> None:
    """Say what a stage is, what it learned from, how good it is, and how to make it again.

    ``trained`` holds the weights to use, ``images`` what it was trained on.
    """
    flow = trained.flow
    folder, data, model = Path(config.out), config.data, config.model
    held_out = images.held_out
    what = "Haar details" if config.of_details else "images"
    given = f" given {data.size // 2}x{data.size // 2} ones" * config.upsamples
    if config.of_chroma:
        what, given = "chroma", " given luma"
    if config.hole:
        what, given = "images", f" with a hole of {config.hole}x{config.hole}"
    parameters = sum(p.numel() for p in flow.parameters())
    pictures = sorted((folder / "samples").glob("*.png"))
    shown = f"![samples](samples/{pictures[-1].name})\n\n" if pictures else ""
    asked = ", given the real images of half the size" * config.upsamples
    asked += ", given their luma" * config.of_chroma
    asked += f", of {config.hole}x{config.hole} pixels given those around" * bool(config.hole)
    asked += ", labels given" * bool(model.classes)
    noise = f"one draw\nof {model.dequantise} dequantisation noise"
    noise = "without dequantisation" if flow.exact else noise
    weights = "averaged" if config.train.ema else "last"
    facts = {**_training(config, images), "held out": f"{held_out.bpd(trained):.4f} bits/dim"}
    whose = "this stage's own bits/dim" if not config.train.joint else "both stages' bits/dim"
    table = "\n".join(f"| {name} | {fact} |" for name, fact in facts.items())
    elsewhere = " It is not the cascade's figure: for\n"
    elsewhere += "that, run `csrflow likelihood` on the cascade's folder."
    elsewhere *= not config.stands_alone
    best = ", `best.safetensors` those that did best on held-out\nimages" * (not config.train.joint)
    again = f"{folder.parent}-again/{folder.name}" if config.train.joint else f"{folder}-again"
    command = shlex.join([str(folder / "config.yaml"), f"out={again}"])
    text = f"""# {folder.name}

A {model.kind} of {data.size}x{data.size} {what}{given}, {parameters:,} parameters, \
{model.classes or "no"} classes.

{shown}| | |
|---|---|
{table}

Held out: {whose} of {len(held_out.batch.target)} images of the \
{held_out.split} split{asked}, {noise}, {weights} weights.{elsewhere}

`model.safetensors` holds the weights to use{best}, `config.yaml` every setting. To train it again:

```sh
csrflow train {command}
```
"""
    with whole(folder / "README.md") as aside:
        aside.write_text(text, encoding="utf-8")


def _training(config: StageConfig, images: StageData) -> dict[str, str]:
    """What it was trained on, how, and with which packages, by name."""
    data, train, augment = config.data, config.train, config.augment
    folder = Path(config.out)
    rows = read_metrics(folder) if (folder / "metrics.jsonl").is_file() else []
    skipped = max((row.get("skipped", 0) for row in rows), default=0)
    learned = f"{len(images.source):,} images, SHA-256 {images.record.images[:16]}"
    learned += f"; {images.source.version}" * bool(images.source.version)
    facts = {
        "data": f"{data.name}, split {data.split}: {learned}",
        "training": f"{_length(train, rows)} of {train.batch_size} images, seed {config.seed}, "
        f"precision {train.precision}, {skipped} steps skipped as not finite",
    }
    if train.pretrain_steps or train.frozen_steps:
        alone = "guessing chroma" if config.of_chroma else "super-resolution"
        facts["encoder"] = (
            f"{train.pretrain_steps:,} steps of {alone} before, then frozen for the "
            f"first {train.frozen_steps:,}"
        )
    if train.start:
        facts["starts from"] = f"{train.start}, SHA-256 {images.record.start[:16]}"
    if train.joint:
        facts["trained along"] = f"{train.joint}, and the low images between them"
    if augment.previous:
        facts["low images"] = (
            f"disturbed in the latents of {augment.previous}, sigma {augment.sigma}, "
            f"{augment.scaling}"
        )
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return {**facts, "made with": f"{versions}, Python {platform.python_version()}"}


def _length(train: Train, rows: Sequence[dict[str, Any]]) -> str:
    """How many steps of the flow, and in what time where that was limited."""
    limits = {"seconds": train.seconds, "patience": train.patience}
    asked = [f"train.{name}={value:g}" for name, value in limits.items() if value]
    if not asked or not rows:
        return f"{train.steps:,} steps"
    made = rows[-1]["step"] - train.pretrain_steps
    return f"{', '.join(asked)}: {made:,} steps"
