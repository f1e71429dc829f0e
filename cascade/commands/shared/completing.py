"""What the commands share that complete photos of which a part is given."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from cascade import InputError
from cascade.commands.shared import cli
from cascade.figures.grid import save_grid
from cascade.labels import label_named
from cascade.photos.photo import FORMATS
from cascade.stage import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many versions, of what, and where to write them."""
    parser.add_argument("--num", type=cli.positive, default=1, help="versions of each photo")
    parser.add_argument("--temperature", default="0.8")
    parser.add_argument("--label", help="class, by name or number, for a stage with classes")
    parser.add_argument("--out", default=".", help="folder to write to")
    parser.add_argument("--format", choices=tuple(FORMATS), default="png")
    parser.add_argument("--sheet", help="also write all as one picture")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu, cuda, ...; a GPU where there is one")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def label_of(stage: Stage, text: str | None) -> int | None:
    """The label that --label gives, if it is given."""
    if text is None:
        return None
    if not stage.classes:
        raise InputError(f"--label was given, but {stage.name} uses no labels")
    return label_named(text, stage.class_names)


def spread(images: Tensor) -> float | None:
    """The mean standard deviation of a value between versions uint8 (n, …), in grey levels.

    That of the unbiased variance, as in scores of super-resolution; None of a single version.
    """
    return images.double().std(0).mean().item() if len(images) > 1 else None


def say(files: str, facts: Sequence[str], result: dict[str, Any]) -> None:
    """Print a line of what was written, of ``facts`` about it, and of how much versions differ."""
    differ = result["spread"]
    apart = [] if differ is None else [f"spread {differ:.1f} grey levels"]
    cli.say(f"{files}: " + "; ".join([*apart, *facts, f"{result['seconds']:.1f} s"]))


def save_sheet(rows: Sequence[Tensor], file: str) -> None:
    """A row of images uint8 (n, 3, h, w) a photo; smaller ones are filled up with black."""
    columns = max(map(len, rows))
    height, width = (max(row.shape[side] for row in rows) for side in (2, 3))
    canvas = torch.zeros(len(rows), columns, 3, height, width, dtype=torch.uint8)
    for place, row in zip(canvas, rows, strict=True):
        place[: len(row), :, : row.shape[2], : row.shape[3]] = row
    save_grid(canvas.flatten(0, 1), file, columns)
