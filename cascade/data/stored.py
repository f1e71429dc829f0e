"""Images that stay in their files, and are read from there by their places as they are asked for.

The system keeps what was read in its page cache, one copy for all processes of a machine; a process
takes memory for the images of a batch alone, and is given the files' names, not their pixels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.data.npz import read_npz
from cascade.utils.files import whole
from stages import InputError

LARGE = 2**26  # bytes of an array from which on it is left in its file, and its digests are kept
BLOCK = 1024  # images that are read at once to digest them


@dataclass(frozen=True)
class Part:
    """uint8 images (N, C, H, W) from ``offset`` of a file on, there (N, H, W, C) if ``last``.

    ``changed`` is the file's size and time of change when it was opened; ``listed`` says whether
    the file is an `.npz` whose array ``contents`` tells its images apart.
    """

    file: Path
    offset: int
    shape: tuple[int, int, int, int]
    last: bool
    changed: tuple[int, int]
    listed: bool = False

    def images(self, data: np.ndarray) -> np.ndarray:
        """Bytes of so many images as (B, C, H, W)."""
        _, channels, height, width = self.shape
        if not self.last:
            return data.reshape(-1, channels, height, width)
        return data.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)

    @property
    def size(self) -> int:
        """Bytes of an image."""
        return self.shape[1] * self.shape[2] * self.shape[3]

    def open(self) -> FileIO:
        """The file; `InputError` where it is no longer the one that was opened."""
        try:
            file = open(self.file, "rb", buffering=0)  # noqa: SIM115  # for its images' lifetime
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {error.strerror}") from None
        if changed(file.fileno()) != self.changed:
            raise self.other()
        return file

    def fill(self, file: FileIO, first: int, data: np.ndarray) -> None:
        """Read the bytes of images ``first``, ``first`` + 1, … into an array that they fill."""
        view, done = data.reshape(-1).data, 0
        try:
            file.seek(self.offset + first * self.size)
            while done < len(view) and (count := file.readinto(view[done:])):
                done += count
        except OSError as error:
            raise InputError(f"cannot read {self.file}: {error.strerror}") from None
        if done < len(view):
            raise self.other()

    def other(self) -> InputError:
        """What is raised where the file is another one than was opened."""
        return InputError(f"{self.file} has changed while it was in use: start again")


def changed(file: Path | int) -> tuple[int, int]:
    """A file's size and time of change."""
    status = os.stat(file)
    return status.st_size, status.st_mtime_ns


class Stored:
    """Images of one or more files as one list (N, C, H, W), or the ``rows`` of it in their order.

    Indexed by places (B,), or by a slice, it gives those images, as a tensor. ``cache`` is the
    folder that keeps the digests of large files, if any does.
    """

    def __init__(self, parts: Sequence[Part], cache: Path | None = None):
        self.parts, self.cache = tuple(parts), cache
        self.ends = torch.tensor([part.shape[0] for part in parts]).cumsum(0)
        self.rows: Tensor | None = None
        self._files: dict[tuple[int, int], FileIO] = {}  # by process and part: forks share offsets
        self._contents: dict[int, np.ndarray] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_files": {}, "_contents": {}}

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W)."""
        return (len(self), *self.parts[0].shape[1:])

    def take(self, indices: Tensor) -> Stored:
        """The images at ``indices`` alone, in this order."""
        result = Stored(self.parts, self.cache)
        result.rows = indices if self.rows is None else self.rows[indices]
        result._contents = self._contents
        return result

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        if isinstance(indices, slice):
            indices = torch.arange(len(self))[indices]
        rows = indices if self.rows is None else self.rows[indices]
        result = torch.empty((len(rows), *self.shape[1:]), dtype=torch.uint8)
        buffer = np.empty(self.parts[0].size, dtype=np.uint8)
        for place, (number, row) in enumerate(zip(*self._located(rows), strict=True)):
            part = self.parts[number]
            key = os.getpid(), number
            if key not in self._files:
                self._files[key] = part.open()
            part.fill(self._files[key], row, buffer)
            result[place] = torch.from_numpy(part.images(buffer)[0])
        return result

    def _located(self, rows: Tensor) -> tuple[list[int], list[int]]:
        """Of each row, which part it is in, and where in that."""
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < int(self.ends[-1]):
            raise IndexError(f"there are {int(self.ends[-1])} images")
        numbers = torch.bucketize(rows, self.ends, right=True)
        starts = self.ends - torch.tensor([part.shape[0] for part in self.parts])
        return numbers.tolist(), (rows - starts[numbers]).tolist()

    def contents(self) -> np.ndarray:
        """What tells the images apart, bytes (N,): digests of their pixels, or what is listed."""
        for number, part in enumerate(self.parts):
            if number not in self._contents:
                self._contents[number] = contents_of(part, self.cache)
        result = np.concatenate([self._contents[i] for i in range(len(self.parts))])
        return result if self.rows is None else result[self.rows.numpy()]


def joined(images: Sequence[Stored]) -> Stored:
    """The images of several, one after the other."""
    result = Stored([part for one in images for part in one.parts], images[0].cache)
    starts = np.cumsum([0, *(int(one.ends[-1]) for one in images)]).tolist()
    result.rows = torch.cat(
        [
            start + (torch.arange(len(one)) if one.rows is None else one.rows)
            for start, one in zip(starts, images, strict=False)
        ]
    )
    return result


def contents_of(part: Part, cache: Path | None) -> np.ndarray:
    """What tells a part's images apart, bytes (N,), as listed, kept or digested now.

    Digests are those of `image_digest`; of a large part they are kept in the ``cache``.
    """
    if part.listed:
        return read_npz(part.file, ["contents"])["contents"]
    if cache is None or part.size * part.shape[0] < LARGE:
        return _digested(part)
    place = f"{part.file.resolve()} {part.offset}".encode(errors="surrogateescape")
    kept = cache / f"{part.file.stem}-{hashlib.sha256(place).hexdigest()[:16]}.digests.npz"
    stamp = np.array(repr((part.shape, part.last, part.changed)))
    try:
        found = read_npz(kept, ["stamp", "contents"])
        if str(found["stamp"]) == str(stamp) and len(found["contents"]) == part.shape[0]:
            return found["contents"]
    except (InputError, KeyError):
        pass  # there is none, or none that can be read: it is made now
    contents = _digested(part)
    try:
        with whole(kept) as aside:
            np.savez(aside, stamp=stamp, contents=contents)
    except OSError:
        pass  # whoever cannot keep them digests again
    return contents


def _digested(part: Part) -> np.ndarray:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        blocks = pool.map(partial(_digests, part), range(0, part.shape[0], BLOCK))
        return np.frombuffer(b"".join(blocks), dtype="S64")


def _digests(part: Part, first: int) -> bytes:
    """SHA-256 of the pixels (C, H, W) of a block of images, as hexadecimal digits."""
    data = np.empty((min(BLOCK, part.shape[0] - first), part.size), dtype=np.uint8)
    with part.open() as file:
        part.fill(file, first, data)
    images = np.ascontiguousarray(part.images(data))
    return b"".join(hashlib.sha256(image).hexdigest().encode() for image in images)
