"""The images of a stage: splits of its data set, checked against what the stage needs."""

from __future__ import annotations

from pathlib import Path

from cascade.config import StageConfig
from cascade.data.named import open_data_set
from cascade.data.sources import ImageSource
from cascade.data.splits import Splits
from stages import InputError


def open_stage_images(config: StageConfig, split: str) -> ImageSource:
    """One split of a stage's data set, checked against what the stage needs."""
    return open_stage_splits(config)(split)


def open_stage_splits(config: StageConfig) -> Splits:
    """The splits of a stage's data set, which is read once, each checked when it is asked for."""
    data = config.data
    splits = open_data_set(
        data.name, data.channels, data.resize, data.skip_bad, data.root, data.cache
    )

    def checked(split: str) -> ImageSource:
        source = splits(split)
        check_source(config, source)
        source.version = version(data.name, source, data.version)
        return source

    return checked


def version(name: str, source: ImageSource, stated: str | None) -> str:
    """Which version of a data set a source is: as its files show, or else as it is stated.

    Raises `InputError` where one is stated and the files show that it is another.
    """
    known = source.version and "not known" not in source.version
    if known and stated not in (None, source.version):
        raise InputError(f"{name} is {source.version}, not {stated}: leave data.version out")
    return source.version if known else stated or source.version


def check_source(config: StageConfig, source: ImageSource) -> None:
    """Raise `InputError` unless images and labels are what a stage needs."""
    data, classes, name = config.data, config.model.classes, Path(config.out).name
    check_images(name, data.size, data.name, source.shape)
    if classes and source.labels is None:
        raise InputError(f"stage {name} has {classes} classes, but {data.name} has no labels")
    if classes and source.labels is not None and int(source.labels.max()) >= classes:
        raise InputError(
            f"stage {name} has {classes} classes, "
            f"but {data.name} has labels up to {int(source.labels.max())}"
        )


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
