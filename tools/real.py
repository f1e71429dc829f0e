"""Real images as arguments name them."""

from __future__ import annotations

import argparse

import cli
import torch
from torch import Tensor

from cascade import Cascade
from cascade.data.named import SPLITS, labels_by_name, open_images
from cascade.data.sources import ImageSource
from cascade.data.stage_images import check_images
from cascade.utils.seeds import generator


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images to read, and how."""
    parser.add_argument("--data", help="data set, folder or .npz; what the cascade learned from")
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--limit", type=cli.positive, help="score so many, drawn by chance")
    parser.add_argument("--resize", type=cli.positive, help="bring other images to this side")
    parser.add_argument("--skip-bad", action="store_true", help="leave out unreadable images")
    parser.add_argument("--root", default="data", help="where downloads go")


def drawn(source: ImageSource, limit: int | None) -> Tensor:
    """All indices of a source, or so many of them, drawn once for all."""
    order = torch.randperm(len(source), generator=generator("limit"))
    return order[: limit or len(source)].sort().values


def open_source(cascade: Cascade, args: argparse.Namespace, data: str, split: str) -> ImageSource:
    """One split of a data set, with the cascade's labels, checked against what it takes."""
    channels, size, _ = cascade.shape
    source = open_images(data, split, channels, args.resize, args.skip_bad, args.root)
    check_images(cascade.stages[-1].name, size, data, source.shape)
    known = next((s.config.data.classes for s in cascade.stages if s.classes), [])
    source.labels = labels_by_name(source, known, cascade.classes)
    return source
