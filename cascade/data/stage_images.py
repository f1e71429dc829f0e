"""The images of a stage: a split of its data set, checked against what the stage needs."""

from __future__ import annotations

from pathlib import Path

from cascade.config import StageConfig
from cascade.data.named import open_images
from cascade.data.sources import ImageSource
from stages import InputError


def open_stage_images(config: StageConfig, split: str) -> ImageSource:
    """One split of a stage's data set, checked against what the stage needs."""
    data, classes = config.data, config.model.classes
    source = open_images(data.name, split, data.channels, data.resize, data.skip_bad, data.root)
    name = Path(config.out).name
    check_images(name, data.size, data.name, source.shape)
    if classes and source.labels is None:
        raise InputError(f"stage {name} has {classes} classes, but {data.name} has no labels")
    if classes and source.labels is not None and int(source.labels.max()) >= classes:
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
