"""Image sources: N images of one size, read by index, with labels where they are known."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cascade.data.decoding import UNREADABLE, decode, fitted
from cascade.data.npz import read_npz
from cascade.utils.seeds import image_digest
from stages import InputError, InputWarning


@dataclass
class ArrayImages:
    """Images in memory: ``pixels`` uint8 (N, C, H, W), ``labels`` int64 (N,) or None."""

    pixels: Tensor
    labels: Tensor | None = None
    classes: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, uint8 (B, C, H, W)."""
        return self.pixels[indices]

    def name(self, index: int) -> str:
        """The file an image comes from: none."""
        return ""

    def subset(self, indices: Tensor) -> ArrayImages:
        """The source that holds these images alone, in this order."""
        labels = None if self.labels is None else self.labels[indices]
        return ArrayImages(self.pixels[indices], labels, self.classes)

    def contents(self) -> Sequence[str]:
        """What tells the images apart: digests of their pixels."""
        return [image_digest(image) for image in self.pixels]


@dataclass
class FileImages:
    """Images on disk, decoded when they are read.

    ``skipped`` names unreadable files that were left out; ``digests`` are the SHA-256 of the files,
    where they were read already.
    """

    files: list[Path]
    shape: tuple[int, int, int]
    resize: int | None = None
    crop: int | None = None
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    skipped: Sequence[str] = ()
    digests: Sequence[str] = ()
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(8), repr=False)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, uint8 (B, C, H, W); `InputError` names an unreadable file."""
        files = [self.files[i] for i in indices.tolist()]
        return torch.stack(list(self._pool.map(self._decode, files)))

    def _decode(self, file: Path) -> Tensor:
        try:
            return decode(file, self.shape[0], self.resize, self.crop)
        except UNREADABLE as error:
            raise InputError(f"cannot read image {_shown(file)}: {error}") from None

    def name(self, index: int) -> str:
        """The file an image comes from."""
        return str(self.files[index])

    def subset(self, indices: Tensor) -> FileImages:
        """The source that holds these images alone, in this order."""
        files = [self.files[i] for i in indices.tolist()]
        labels = None if self.labels is None else self.labels[indices]
        digests = [self.digests[i] for i in indices.tolist()] if self.digests else []
        return replace(self, files=files, labels=labels, digests=digests)

    def contents(self) -> Sequence[str]:
        """What tells the images apart: digests of the files, or else their names and sizes."""
        return self.digests or [f"{file.name}:{file.stat().st_size}" for file in self.files]


ImageSource = ArrayImages | FileImages


def fingerprint(source: ImageSource) -> str:
    """SHA-256 of all that a source holds, images, order and labels."""
    digest = hashlib.sha256("".join(source.contents()).encode())
    if source.labels is not None:
        digest.update(source.labels.numpy().tobytes())
    return digest.hexdigest()


EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}


def open_folder(
    folder: Path, channels: int, resize: int | None = None, skip_bad: bool = False
) -> FileImages:
    """All images below a folder, in name order; sub-folders are classes.

    Every file is decoded once here, so that a damaged one is found before work starts:
    `InputError` names it, or with ``skip_bad`` it is left out and counted.
    """
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
    if not files:
        raise InputError(f"folder {folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
    good, digests, problems = [], [], []
    shapes: dict[Any, Path] = {}  # a file of each

    def inspect(file: Path) -> tuple[Any, str] | Exception:
        try:
            content = file.read_bytes()
            shape = tuple(decode(BytesIO(content), channels, resize, None).shape)
            return shape, hashlib.sha256(content).hexdigest()
        except UNREADABLE as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for file, result in zip(files, pool.map(inspect, files), strict=True):
            if isinstance(result, Exception):
                problems.append(f"{_shown(file)} ({result})")
            else:
                shape, digest = result
                good.append(file)
                digests.append(digest)
                shapes.setdefault(shape, file)
    if problems and not (skip_bad and good):
        raise InputError(
            f"{len(problems)} of {len(files)} images cannot be read, first {problems[0]}; "
            "mend or remove them, or leave them out with --skip-bad (data.skip_bad=true)"
        )
    if len(shapes) > 1:
        (a, first), (b, second) = list(shapes.items())[:2]
        raise InputError(
            f"images of different sizes: {first.name} is {a[1]}x{a[2]}, "
            f"{second.name} {b[1]}x{b[2]}; pass --resize N (data.resize=N)"
        )
    parents = [file.parent.relative_to(folder).as_posix() for file in good]
    classes = sorted(set(parents)) if "." not in parents else []
    labels = torch.tensor([classes.index(p) for p in parents]) if classes else None
    for problem in problems:
        warnings.warn(f"left out {problem}", InputWarning, stacklevel=2)
    shape = next(iter(shapes))
    return FileImages(good, shape, resize, None, labels, classes, problems, digests)


def _shown(file: Path) -> str:
    """A file's name in one line of text that can be printed, whatever its bytes."""
    return " ".join(os.fsencode(file).decode(errors="replace").splitlines())


MOST_CLASSES = 2**20  # that labels may tell apart; a bound for what is no label at all


def open_npz(file: Path, channels: int, resize: int | None = None) -> ArrayImages:
    """``images`` (N, H, W[, C]) uint8, and ``labels`` (N,) and ``classes`` where present."""
    arrays = read_npz(file, ("images", "labels", "classes"))
    if "images" not in arrays:
        raise InputError(f"cannot read {file}: it needs an array 'images'")
    images, labels = arrays["images"], arrays.get("labels")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise InputError(
            f"{file}: images must be uint8 (N, H, W) or (N, H, W, C), "
            f"got {images.dtype} {images.shape}"
        )
    if images.shape[3] != channels:
        raise InputError(f"{file} has {images.shape[3]} channels, the stage {channels}")
    if resize:
        images = np.stack([_resized(image, resize) for image in images])
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    checked = _checked_labels(file, labels, len(pixels))
    return ArrayImages(pixels, checked, _checked_classes(file, arrays.get("classes"), checked))


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
