"""Splits of data sets, which never overlap, and labels by the names of classes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from cascade.data.sources import ImageSource
from cascade.utils.seeds import generator
from stages import InputError

SPLITS = ("train", "validation", "trainval", "test", "all")
CUTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "trainval": (0.0, 0.9), "test": (0.9, 1.0)}
Splits = Callable[[str], ImageSource]  # of a data set that is open: a split by its name


def members(count: int, labels: Tensor | None) -> Iterator[tuple[int, Tensor]]:
    """Every label, lowest first, and the places of its images; all as label 0 without labels."""
    if labels is None:
        yield 0, torch.arange(count)
        return
    order = labels.argsort(stable=True)
    names, counts = labels.unique(return_counts=True)
    yield from zip(names.tolist(), order.split(counts.tolist()), strict=True)


def part(count: int, labels: Tensor | None, split: str) -> Tensor:
    """Indices of one split of a data set that has none: 80 % train, 10 % validation, 10 % test.

    Class by class where there are labels, and the same in every run.
    """
    if split == "all":
        return torch.arange(count)
    chosen = []
    for group, places in members(count, labels):
        order = places[torch.randperm(len(places), generator=generator("split", group))]
        first, last = (round(cut * len(order)) for cut in CUTS[split])
        chosen.append(order[first:last])
    return torch.cat(chosen).sort().values


def part_by_name(names: Sequence[str], split: str) -> Tensor:
    """Indices of one split by the SHA-256 of each name, so that a new file moves no other."""
    if split == "all":
        return torch.arange(len(names))
    first, last = CUTS[split]
    digests = [hashlib.sha256(os.fsencode(name)).hexdigest() for name in names]
    places = [int(digest[:8], 16) / 2**32 for digest in digests]
    return torch.tensor([i for i, p in enumerate(places) if first <= p < last], dtype=torch.int64)


def held_out(source: ImageSource, split: str) -> ImageSource:
    """Every tenth training image of each class, chosen once for all, is for validation.

    ``source`` holds the official training images, or, for the split ``test``, those to test with.
    """
    if split in ("test", "trainval"):
        return source
    if split == "all":
        raise InputError("split 'all' is for folders and arrays; choose train or test")
    mask = torch.zeros(len(source), dtype=torch.bool)
    for label, places in members(len(source), source.labels):
        order = torch.randperm(len(places), generator=generator("validation", label))
        mask[places[order[: len(places) // 10]]] = True
    return source.subset((mask if split == "validation" else ~mask).nonzero().flatten())


def cut(source: ImageSource, name: str, split: str) -> ImageSource:
    """One split of images that come as one list; `InputError` where it is empty."""
    indices = part(len(source), source.labels, split)
    rule = "it is cut 80, 10 and 10 %, rounded, which takes 8 images" + _of_the_largest(source)
    return chosen(source, indices, name, split, rule)


def chosen(source: ImageSource, indices: Tensor, name: str, split: str, rule: str) -> ImageSource:
    """The images of a split; `InputError`, which says the rule, where there are none."""
    if not len(indices):
        raise InputError(
            f"the {split} split of the {len(source)} images in {name} is empty: {rule}"
        )
    return source.subset(indices)


def _of_the_largest(source: ImageSource) -> str:
    """How many images the largest class has, where there are classes."""
    if source.labels is None:
        return ""
    most = int(source.labels.unique(return_counts=True)[1].max())
    return f" a class, and the largest of its classes has {most}"


def labels_by_name(source: ImageSource, classes: Sequence[str], count: int) -> Tensor | None:
    """A source's labels as those of a cascade of ``count`` classes, which may have names.

    Where both know their classes' names, labels are places in ``classes``. None where the source
    has no labels, or some that are not the cascade's.
    """
    labels = source.labels
    if labels is not None and source.classes and classes:
        if not set(source.classes) <= set(classes):
            return None
        labels = torch.tensor([list(classes).index(name) for name in source.classes])[labels]
    if labels is not None and count and int(labels.max()) >= count:
        return None
    return labels
