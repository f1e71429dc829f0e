"""Image sources: N images of one size, read by index, with labels where they are known."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from cascade.data.decoding import UNREADABLE, decode
from cascade.data.stored import Stored, joined
from cascade.utils.seeds import generator, image_digest
from stages import InputError


@dataclass
class ArrayImages:
    """Images of an array: ``pixels`` uint8 (N, C, H, W), in memory or in files.

    ``labels`` are int64 (N,) or None, ``files`` what the images were decoded from, if anything,
    ``skipped`` what was left out of them, ``version`` says which published version of a data set
    they are, where there are several.
    """

    pixels: Tensor | Stored
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    files: Sequence[Path] = ()
    skipped: Sequence[str] = ()
    version: str = ""

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"files": (), "skipped": ()}  # who makes batches needs no names

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
        """The file an image comes from, empty where there is none."""
        return str(self.files[index]) if self.files else ""

    def subset(self, indices: Tensor) -> ArrayImages:
        """The source that holds these images alone, in this order."""
        stored = isinstance(self.pixels, Stored)
        pixels = self.pixels.take(indices) if stored else self.pixels[indices]
        labels = None if self.labels is None else self.labels[indices]
        files = [self.files[i] for i in indices.tolist()] if self.files else ()
        return replace(self, pixels=pixels, labels=labels, files=files)

    def contents(self) -> Iterator[str]:
        """What tells the images apart: digests of their pixels, or of the files they come from."""
        if isinstance(self.pixels, Stored):
            return (content.decode() for content in self.pixels.contents())
        return map(image_digest, self.pixels)


def together(sources: Sequence[ArrayImages]) -> ArrayImages:
    """The images of several sources of one data set, one after the other."""
    pixels: list[Any] = [source.pixels for source in sources]
    labels: list[Any] = [source.labels for source in sources]
    stored = all(isinstance(part, Stored) for part in pixels)
    return replace(
        sources[0],
        pixels=joined(pixels) if stored else torch.cat([part[:] for part in pixels]),
        labels=None if any(part is None for part in labels) else torch.cat(labels),
        files=[file for source in sources for file in source.files],
        skipped=[text for source in sources for text in source.skipped],
    )


@dataclass
class FileImages:
    """Images on disk, decoded when they are read.

    ``skipped`` names unreadable files that were left out; ``digests`` are the SHA-256 of the files,
    where they were read already.
    """

    files: Sequence[Path]
    shape: tuple[int, int, int]
    resize: int | None = None
    crop: int | None = None
    labels: Tensor | None = None
    classes: Sequence[str] = ()
    skipped: Sequence[str] = ()
    digests: Sequence[str] = ()
    version: str = ""
    _pool: ThreadPoolExecutor | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"skipped": (), "digests": (), "_pool": None}

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: Tensor) -> Tensor:
        """The images at ``indices``, uint8 (B, C, H, W); `InputError` names an unreadable file."""
        files = [self.files[i] for i in indices.tolist()]
        if get_worker_info():  # one of several processes, of one thread each
            return torch.stack([self._decode(file) for file in files])
        self._pool = self._pool or ThreadPoolExecutor(8)
        return torch.stack(list(self._pool.map(self._decode, files)))

    def _decode(self, file: Path) -> Tensor:
        try:
            return decode(file, self.shape[0], self.resize, self.crop)
        except UNREADABLE as error:
            raise InputError(f"cannot read image {shown(file)}: {error}") from None

    def name(self, index: int) -> str:
        """The file an image comes from."""
        return str(self.files[index])

    def subset(self, indices: Tensor) -> FileImages:
        """The source that holds these images alone, in this order."""
        files = [self.files[i] for i in indices.tolist()]
        labels = None if self.labels is None else self.labels[indices]
        digests = [self.digests[i] for i in indices.tolist()] if self.digests else []
        return replace(self, files=files, labels=labels, digests=digests)

    def contents(self) -> Iterable[str]:
        """What tells the images apart: digests of the files, or else their names and sizes."""
        return self.digests or map(name_and_size, self.files)


ImageSource = ArrayImages | FileImages


def name_and_size(file: Path) -> str:
    """What stands for a file's contents where nobody has read it."""
    return f"{file.name}:{file.stat().st_size}"


def shown(file: Path) -> str:
    """A file's name in one line of text that can be printed, whatever its bytes."""
    return " ".join(os.fsencode(file).decode(errors="replace").splitlines())


def drawn(source: ImageSource, limit: int | None) -> Tensor:
    """All indices of a source, or so many of them, drawn once for all: fewer are some of more."""
    order = torch.randperm(len(source), generator=generator("limit"))
    return order[: limit or len(source)].sort().values


def fingerprint(source: ImageSource) -> str:
    """SHA-256 of all that a source holds, images, order and labels."""
    digest = hashlib.sha256()
    for content in source.contents():
        digest.update(content.encode())
    if source.labels is not None:
        digest.update(source.labels.numpy().tobytes())
    return digest.hexdigest()
