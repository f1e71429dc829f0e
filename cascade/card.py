"""The model card: a `README.md` in the folder of a finished stage."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import shlex
from pathlib import Path

from cascade.config import StageConfig
from cascade.files import whole
from cascade.images import ImageSource
from cascade.watch import HeldOut
from stages import Flow

PACKAGES = ("torch", "accelerate", "numpy", "csrflow")


def write_card(config: StageConfig, flow: Flow, source: ImageSource, held_out: HeldOut) -> None:
    """Say what a stage is, what it was trained on, how good it is by which protocol, and how to
    make it again."""
    folder = Path(config.out)
    data, train, model = config.data, config.train, config.model
    parameters = sum(p.numel() for p in flow.parameters())
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    log = folder / "metrics.jsonl"
    rows = [json.loads(row) for row in log.read_text().splitlines()] if log.is_file() else []
    skipped = max((row.get("skipped", 0) for row in rows), default=0)
    phases = ""
    if train.pretrain_steps or train.frozen_steps:
        phases = (
            f"| encoder | {train.pretrain_steps:,} steps of super-resolution before, then frozen "
            f"for the first {train.frozen_steps:,} |\n"
        )
    given = f" given {data.size // 2}x{data.size // 2} ones" if model.kind == "srflow" else ""
    what = "Haar details" if model.pyramid == "haar" and model.kind == "srflow" else "images"
    pictures = sorted((folder / "samples").glob("*.png"))
    shown = f"![samples](samples/{pictures[-1].name})\n\n" if pictures else ""
    disturbed = ""
    if config.augment.previous:
        disturbed = (
            f"| low images | disturbed in the latents of {config.augment.previous}, "
            f"sigma {config.augment.sigma}, {config.augment.scaling} |\n"
        )
    asked = ", given the real images of half the size" * (model.kind == "srflow")
    asked += ", labels given" * bool(model.classes)
    command = shlex.join([str(folder / "config.yaml"), f"out={folder}-again"])
    text = f"""# {folder.name}

A {model.kind} of {data.size}x{data.size} {what}{given}, {parameters:,} parameters, \
{model.classes or "no"} classes.

{shown}| | |
|---|---|
| data | {data.name}, split {data.split}: {len(source):,} images, SHA-256 {data.fingerprint[:16]} |
| training | {train.steps:,} steps of {train.batch_size} images, seed {config.seed}, precision \
{train.precision}, {skipped} steps skipped as not finite |
{phases}{disturbed}| held out | {held_out.bpd(flow):.4f} bits/dim |
| made with | {versions}, Python {platform.python_version()} |

Held out: this stage's own bits/dim of {len(held_out.batch.target)} images of the \
{held_out.split} split{asked}, one draw
of uniform dequantisation noise, {"averaged" if train.ema else "last"} weights. It is not the \
cascade's figure: for that, run
`tools/likelihood.py` on the cascade's folder.

`model.safetensors` holds the weights to use, `best.safetensors` those that did best on held-out
images, `config.yaml` every setting. To train it again:

```sh
accelerate launch tools/train.py {command}
```
"""
    with whole(folder / "README.md") as aside:
        aside.write_text(text)
