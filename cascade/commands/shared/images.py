"""The cascade and the real images that arguments name."""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import Tensor

from cascade import Cascade, InputError
from cascade.commands.shared import cli
from cascade.data.named import open_images
from cascade.data.sources import ArrayImages, ImageSource
from cascade.data.splits import SPLITS, labels_by_name
from cascade.data.stage_images import check_images, version
from cascade.utils.seeds import generator


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images to read, and how."""
    parser.add_argument("--data", help="data set, folder or .npz; what the cascade learned from")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--limit", type=cli.positive, help="score so many, drawn by chance")
    add_reading_arguments(parser)


def add_reading_arguments(parser: argparse.ArgumentParser) -> None:
    """How to read them."""
    parser.add_argument("--resize", type=cli.positive, help="bring other images to this side")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable images")
    parser.add_argument("--root", default="data", help="where downloads go")


def open_source(cascade: Cascade, args: argparse.Namespace, data: str, split: str) -> ImageSource:
    """One split of a data set, with the cascade's labels, checked against what it takes."""
    channels, size, _ = cascade.shape
    source = open_images(data, split, channels, args.resize, args.skip_bad, args.root)
    check_images(cascade.stages[-1].name, size, data, source.shape)
    learned = cascade.stages[-1].config.data
    source.version = version(data, source, learned.version if data == learned.name else None)
    source.labels = labels_by_name(source, cascade.named_classes, cascade.classes)
    return source


def load(run: str, args: argparse.Namespace) -> Cascade:
    """The cascade of a folder, on the device the arguments name."""
    return cli.load_cascade(argparse.Namespace(**vars(args) | {"run": run}))


def open_data(cascade: Cascade, name: str | None, split: str) -> ImageSource:
    """One split of a data set, of the one that the last stage learned if ``name`` is None."""
    channels, size, _ = cascade.shape
    data = cascade.stages[-1].config.data
    name = name or data.name
    source = open_images(name, split, channels, data.resize, data.skip_bad, data.root, data.cache)
    check_images(cascade.stages[-1].name, size, name, source.shape)
    return source


def labelled(cascade: Cascade, name: str | None, split: str) -> ArrayImages:
    """All images of a split at the cascade's size, with labels of its classes."""
    source = open_data(cascade, name, split)
    labels: Any = labels_by_name(source, cascade.named_classes, cascade.classes)
    if labels is None:
        name = name or cascade.stages[-1].config.data.name
        raise InputError(f"{name} has no labels of the cascade's classes")
    images = cascade.resize(source.read(torch.arange(len(source))))
    return ArrayImages(images, labels, cascade.class_names)


def choose(source: ImageSource, count: int, seed: int) -> Tensor:
    """Places of so many images of a source, drawn by the seed; all where it holds fewer."""
    return torch.randperm(len(source), generator=generator("figure", seed))[:count]


def real_images(
    cascade: Cascade, args: argparse.Namespace, count: int
) -> tuple[Tensor, Tensor | None]:
    """So many images of the data set, chosen by the seed, and their labels where these are needed.

    Fewer where the data set holds fewer.
    """
    source = open_data(cascade, args.data, args.split)
    labels: Any = labels_by_name(source, cascade.named_classes, cascade.classes)
    if cascade.classes and labels is None:
        name = args.data or cascade.stages[-1].config.data.name
        raise InputError(f"{name} has no labels of the cascade's classes")
    chosen = choose(source, count, args.seed)
    images = cascade.resize(source.read(chosen))
    return images, labels[chosen] if labels is not None and cascade.classes else None
