"""Arrays of images in `.npz` and `.npy` files: held in memory, or left in the file if large."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cascade.data.cache import Original, copied
from cascade.data.decoding import fitted
from cascade.data.npz import Header, npy_header, npz_headers, read_npz, streamed
from cascade.data.sources import ArrayImages
from cascade.data.stored import LARGE, Part, Stored, changed
from stages import InputError

MOST_CLASSES = 2**20  # that labels may tell apart; a bound for what is no label at all


def open_npz(
    file: Path, channels: int, resize: int | None = None, cache: Path | None = None
) -> ArrayImages:
    """``images`` (N, H, W[, C]) uint8, and ``labels`` (N,) and ``classes`` where present.

    Large images are read from the file when they are asked for; where they are compressed or to be
    resized, from a copy in the folder ``cache``, or, without one, they are held in memory. Raises
    `InputError` where arrays are damaged or not these.
    """
    header = npz_headers(file, ["images"]).get("images")
    if header is None:
        raise InputError(f"cannot read {file}: it needs an array 'images'")
    large = header.bytes >= LARGE
    pixels: Stored | Tensor | None = None
    if large:
        _check_images(file, header.shape, header.dtype, channels)
        pixels = large_images(file, "images", header, resize, cache)
    arrays = read_npz(file, ("labels", "classes") + ("images",) * (pixels is None))
    if pixels is None:
        pixels = _in_memory(file, arrays["images"], channels, resize)
    labels = _checked_labels(file, arrays.get("labels"), len(pixels))
    return ArrayImages(pixels, labels, _checked_classes(file, arrays.get("classes"), labels))


def open_npy(
    file: Path, channels: int, resize: int | None = None, cache: Path | None = None
) -> ArrayImages:
    """uint8 images (N, H, W[, C]), read from the file when they are asked for; no labels.

    Where they are to be resized, they are read from a copy in the folder ``cache``, or, without
    one, held in memory. Raises `InputError` where the array is damaged or not this.
    """
    header = npy_header(file)
    _check_images(file, header.shape, header.dtype, channels)
    if header.offset is None:
        raise InputError(f"{file} is stored column by column: save np.ascontiguousarray of it")
    part = Part(file, header.offset, _placed(header.shape), True, changed(file))
    if not resize:
        return ArrayImages(Stored([part], cache))

    def images() -> Iterator[np.ndarray]:
        stored = Stored([part])
        for place in torch.arange(len(stored)).split(1):
            yield _resized(stored[place][0].permute(1, 2, 0).numpy(), resize)

    key = (file.resolve().as_posix(), resize)
    original = Original(file.stem, key, part.changed, part.shape[0], images)
    if cache and (kept := copied(original, cache)):
        return ArrayImages(Stored([kept.part], cache))
    small = np.stack(list(images()))
    return ArrayImages(_in_memory(file, small, channels, None))


def large_images(
    file: Path, name: str, header: Header, resize: int | None, cache: Path | None
) -> Stored | None:
    """Images of an `.npz`'s array where they lie, or a copy's; None where they take memory."""
    if header.offset is not None and not resize:
        return Stored(
            [Part(file, header.offset, _placed(header.shape), True, changed(file))], cache
        )
    if cache is None or header.columns:
        return None

    def images() -> Iterator[np.ndarray]:
        count, channels, height, width = _placed(header.shape)
        with streamed(file, name) as data:
            for _ in range(count):
                image = np.frombuffer(data.read(height * width * channels), dtype=np.uint8)
                image = image.reshape(height, width, channels)
                yield _resized(image, resize) if resize else image

    key = (file.resolve().as_posix(), name, resize)
    kept = copied(Original(file.stem, key, changed(file), header.shape[0], images), cache)
    return None if kept is None else Stored([kept.part], cache)


def _placed(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(N, H, W[, C]) as (N, C, H, W)."""
    count, height, width = shape[:3]
    return count, shape[3] if len(shape) == 4 else 1, height, width


def _check_images(file: Path, shape: tuple[int, ...], dtype: np.dtype, channels: int) -> None:
    if len(shape) not in (3, 4) or dtype != np.uint8 or not all(shape):
        raise InputError(
            f"{file}: images must be uint8 (N, H, W) or (N, H, W, C), got {dtype} {shape}"
        )
    there = _placed(shape)[1]
    if there != channels:
        raise InputError(f"{file} has {there} channels, the stage {channels}")


def _in_memory(file: Path, images: np.ndarray, channels: int, resize: int | None) -> Tensor:
    _check_images(file, images.shape, images.dtype, channels)
    if images.ndim == 3:
        images = images[..., None]
    if resize:
        images = np.stack([_resized(image, resize) for image in images])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    picture = Image.fromarray(image.squeeze(2) if image.shape[2] == 1 else image)
    return np.array(fitted(picture, size)).reshape(size, size, image.shape[2])


def _checked_labels(file: Path, labels: np.ndarray | None, count: int) -> Tensor | None:
    if labels is None:
        return None
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{file}: labels must be {count} whole numbers from 0, "
            f"got {labels.dtype} {labels.shape}"
        )
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= MOST_CLASSES:
        raise InputError(
            f"{file}: labels must be {count} whole numbers from 0 to {MOST_CLASSES - 1}, "
            f"they go from {least} to {most}"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _checked_classes(file: Path, names: np.ndarray | None, labels: Tensor | None) -> list[str]:
    """The classes' names: none, or different ones, as many at least as the labels need."""
    if names is None or not names.size:
        return []
    if names.ndim != 1:
        raise InputError(f"{file}: classes must be a list of names, got an array {names.shape}")
    classes = [str(name) for name in names]
    if again := [name for name, count in Counter(classes).items() if count > 1]:
        raise InputError(f"{file}: classes must have different names, {again[0]!r} is given twice")
    if labels is not None and int(labels.max()) >= len(classes):
        raise InputError(
            f"{file}: classes names {len(classes)} classes, labels go up to {int(labels.max())}"
        )
    return classes
