"""ImageNet at 16×16, 32×32 and 64×64, of which two versions are published.

The same photographs were made smaller in two ways, and bits/dim of the two do not compare: so a
source says which of them it holds. Sources: van den Oord et al., Pixel Recurrent Neural Networks
(2016), https://arxiv.org/abs/1601.06759; Chrabaszcz et al., A Downsampled Variant of ImageNet
(2017), https://arxiv.org/abs/1707.08819
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from cascade.data.cache import Original, copied
from cascade.data.folders import open_folder
from cascade.data.npz import Header, npz_headers, read_npz, streamed
from cascade.data.sources import ArrayImages, ImageSource, together
from cascade.data.stored import Part, Stored, changed
from stages import InputError

BATCH = re.compile(r"train_data_batch_(\d+)\.npz")
SIZED = re.compile(r"train_(\d+)x\1")
OORD = "ImageNet {0}x{0} of van den Oord et al. (2016)"
CHRABASZCZ = "ImageNet {0}x{0} of Chrabaszcz et al. (2017)"
UNKNOWN = "ImageNet {0}x{0}, which of its versions is not known"
COUNTS = {1_281_149: OORD, 49_999: OORD, 1_281_167: UNKNOWN}  # images of train and validation


def version_of(count: int, shape: tuple[int, int, int]) -> str:
    """What the number of images, and their shape, say of a data set; empty if nothing."""
    channels, height, width = shape
    if channels != 3 or height != width or height not in (8, 16, 32, 64):
        return ""
    return COUNTS.get(count, "").format(height)


def open_downsampled(
    folder: Path, channels: int, skip_bad: bool, cache: Path | None
) -> Callable[[str], ImageSource] | None:
    """The official train or test images of a folder of either version; None for other folders.

    Chrabaszcz et al.'s holds ``train_data_batch_1.npz`` and so on and ``val_data.npz``, van den
    Oord et al.'s the folders of images ``train_64x64`` and ``valid_64x64``. Their validation images
    are those to test with. Raises `InputError` where files are missing or damaged.
    """
    names = [entry.name for entry in folder.iterdir()]
    numbers = sorted(int(found[1]) for name in names if (found := BATCH.fullmatch(name)))
    if numbers:
        batches = [folder / f"train_data_batch_{number}.npz" for number in numbers]
        return lambda which: _batches(
            batches if which == "train" else [folder / "val_data.npz"], channels, cache
        )
    sizes = [int(found[1]) for name in names if (found := SIZED.fullmatch(name))]
    if len(sizes) != 1 or not (folder / "valid_{0}x{0}".format(*sizes)).is_dir():
        return None
    size = sizes[0]

    def official(which: str) -> ImageSource:
        part = folder / f"{'train' if which == 'train' else 'valid'}_{size}x{size}"
        source = open_folder(part, channels, None, skip_bad, cache)
        source.labels, source.classes = None, ()
        source.version = OORD.format(size)
        return source

    return official


def _batches(files: list[Path], channels: int, cache: Path | None) -> ArrayImages:
    """The images of all batches, in their order; their labels, from 1 on, count from 0 here."""
    sources = [_batch(file, channels, cache) for file in files]
    if len({source.shape for source in sources}) > 1:
        raise InputError(f"the batches in {files[0].parent} hold images of different sizes")
    return together(sources)


def _batch(file: Path, channels: int, cache: Path | None) -> ArrayImages:
    header = npz_headers(file, ["data"]).get("data")
    if header is None:
        raise InputError(f"cannot read {file}: it needs an array 'data'")
    size = math.isqrt(header.shape[1] // 3) if len(header.shape) == 2 else 0
    if not size or header.shape != (header.shape[0], 3 * size**2) or header.dtype != np.uint8:
        raise InputError(
            f"{file}: data must be uint8 (N, 3·S·S), got {header.dtype} {header.shape}"
        )
    if channels != 3:
        raise InputError(f"{file} has 3 channels, the stage {channels}")
    pixels = _stored(file, header, size, cache)
    arrays = read_npz(file, ["labels"] if pixels else ["labels", "data"])
    count, labels = header.shape[0], arrays.get("labels")
    if labels is None or labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(f"{file}: labels must be {count} whole numbers from 1")
    if count and not 1 <= int(labels.min()) <= int(labels.max()) <= 1000:
        raise InputError(f"{file}: labels must lie between 1 and 1000")
    return ArrayImages(
        torch.from_numpy(arrays["data"].reshape(-1, 3, size, size)) if pixels is None else pixels,
        torch.from_numpy(labels.astype(np.int64)) - 1,
        version=CHRABASZCZ.format(size),
    )


def _stored(file: Path, header: Header, size: int, cache: Path | None) -> Stored | None:
    """A batch where it lies in its file, or in its unpacked copy; None where it takes memory."""
    shape = (header.shape[0], 3, size, size)
    if header.offset is not None:
        return Stored([Part(file, header.offset, shape, False, changed(file))], cache)
    if cache is None or header.columns:
        return None

    def images() -> Iterator[np.ndarray]:
        with streamed(file, "data") as data:
            for _ in range(shape[0]):
                image = np.frombuffer(data.read(3 * size**2), dtype=np.uint8)
                yield image.reshape(3, size, size).transpose(1, 2, 0)

    key = (file.resolve().as_posix(), "data")
    kept = copied(Original(file.stem, key, changed(file), shape[0], images), cache)
    return None if kept is None else Stored([kept.part], cache)
