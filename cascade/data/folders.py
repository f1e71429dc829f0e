"""Folders of image files, decoded once into a copy where one is kept, else as they are read."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.data.cache import Original, Tables, copied
from cascade.data.decoding import UNREADABLE, decode
from cascade.data.sources import ArrayImages, FileImages, ImageSource, name_and_size, shown
from cascade.data.stored import Stored, changed
from stages import InputError, InputWarning

EXTENSIONS = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
BLOCK = 256  # files that are decoded at once


class Survey:
    """What decoding all images of a data set finds: unreadable ones, sizes, digests.

    ``names`` tell the files apart in messages, ``read(place)`` gives a file's bytes.
    """

    def __init__(
        self,
        names: Sequence[Path],
        read: Callable[[int], bytes],
        channels: int,
        resize: int | None,
    ):
        self.names, self.read, self.channels, self.resize = names, read, channels, resize
        self._forget()

    def _forget(self) -> None:
        self.good: list[int] = []  # places of files that can be read
        self.digests: list[str] = []  # of all files, empty for the others
        self.problems: list[str] = []
        self.shapes: dict[Any, Path] = {}  # a file of each

    def images(self) -> Iterator[np.ndarray | None]:
        """Every file as (H, W, C), None where it cannot be read or has not the first one's size."""
        self._forget()
        with ThreadPoolExecutor(8) as pool:
            for start in range(0, len(self.names), BLOCK):
                block = range(start, min(start + BLOCK, len(self.names)))
                for place, result in zip(block, pool.map(self._decoded, block), strict=True):
                    yield self._note(place, result)

    def _decoded(self, place: int) -> tuple[Tensor, str] | Exception:
        try:
            content = self.read(place)
            image = decode(BytesIO(content), self.channels, self.resize, None)
            return image, hashlib.sha256(content).hexdigest()
        except UNREADABLE as error:
            return error

    def _note(self, place: int, result: tuple[Tensor, str] | Exception) -> np.ndarray | None:
        if isinstance(result, Exception):
            self.problems.append(f"{shown(self.names[place])} ({result})")
            self.digests.append("")
            return None
        image, digest = result
        self.good.append(place)
        self.digests.append(digest)
        self.shapes.setdefault(tuple(image.shape), self.names[place])
        return image.permute(1, 2, 0).numpy() if len(self.shapes) == 1 else None

    def check(self, skip_bad: bool) -> None:
        """Raise `InputError` unless all images, or with ``skip_bad`` some, are of one size."""
        refuse(self.problems, len(self.names), skip_bad and bool(self.good))
        if len(self.shapes) > 1:
            (a, first), (b, second) = list(self.shapes.items())[:2]
            raise InputError(
                f"images of different sizes: {first.name} is {a[1]}x{a[2]}, "
                f"{second.name} {b[1]}x{b[2]}; pass --resize N (data.resize=N)"
            )


def refuse(problems: Sequence[str], count: int, skip_bad: bool) -> None:
    """Raise `InputError` where images cannot be read, and are not to be left out."""
    if problems and not skip_bad:
        raise InputError(
            f"{len(problems)} of {count} images cannot be read, first {problems[0]}; "
            "mend or remove them, or leave them out with --skip-bad (data.skip_bad=true)"
        )


def image_files(folder: Path) -> list[Path]:
    """All image files below a folder, in name order; `InputError` where there are none."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in EXTENSIONS and f.is_file())
    if not files:
        raise InputError(f"folder {folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
    return files


def open_folder(
    folder: Path,
    channels: int,
    resize: int | None = None,
    skip_bad: bool = False,
    cache: Path | None = None,
) -> ImageSource:
    """All images below a folder, in name order; sub-folders are classes.

    Every file is decoded once here, so that a damaged one is found before work starts:
    `InputError` names it, or with ``skip_bad`` it is left out and counted. What was decoded is kept
    in the folder ``cache``, if there is one, until a file changes.
    """
    files = image_files(folder)
    survey = Survey(files, lambda place: files[place].read_bytes(), channels, resize)
    source: ImageSource | None = None
    if cache:
        source = _copy(folder, survey, skip_bad, cache)
    if source is None:
        for _ in survey.images():
            pass
        survey.check(skip_bad)
        good = [files[i] for i in survey.good]
        digests = [survey.digests[i] for i in survey.good]
        shape = next(iter(survey.shapes))
        source = FileImages(good, shape, resize, skipped=survey.problems, digests=digests)
    parents = [file.parent.relative_to(folder).as_posix() for file in source.files]
    if "." not in parents:
        source.classes = sorted(set(parents))
        places = {name: place for place, name in enumerate(source.classes)}
        source.labels = torch.tensor([places[parent] for parent in parents])
    for problem in source.skipped:
        warnings.warn(f"left out {problem}", InputWarning, stacklevel=2)
    return source


def _copy(folder: Path, survey: Survey, skip_bad: bool, cache: Path) -> ArrayImages | None:
    """The images of a folder's decoded copy, None where none can be kept."""

    def tables() -> Tables:
        survey.check(skip_bad)
        return {
            "contents": np.array(survey.digests, dtype="S64"),
            "good": np.array(survey.good),
            "problems": np.array(survey.problems, dtype=str),
        }

    stamp = [(file.relative_to(folder).as_posix(), *changed(file)) for file in survey.names]
    key = (folder.resolve().as_posix(), survey.channels, survey.resize)
    kept = copied(Original(folder.name, key, stamp, len(stamp), survey.images, tables), cache)
    if kept is None:
        return None
    problems, good = kept.tables["problems"].tolist(), torch.from_numpy(kept.tables["good"])
    refuse(problems, len(stamp), skip_bad)
    files = [survey.names[i] for i in good.tolist()]
    pixels = Stored([kept.part])
    whole = len(good) == len(stamp)
    return ArrayImages(pixels if whole else pixels.take(good), files=files, skipped=problems)


def open_files(
    name: str, files: Sequence[Path], shape: tuple[int, int, int], crop: int, cache: Path | None
) -> ImageSource:
    """Image files of a published data set, whose names and sizes stand for their contents.

    They are decoded once where a ``cache`` keeps a copy, else when they are read. Raises
    `InputError` where one cannot be read.
    """
    source = FileImages(files, shape, crop=crop)
    if cache is None:
        return source

    def images() -> Iterator[np.ndarray]:
        for block in torch.arange(len(files)).split(BLOCK):
            yield from source.read(block).permute(0, 2, 3, 1).numpy()

    def tables() -> Tables:
        return {"contents": np.array([name_and_size(file) for file in files], dtype=bytes)}

    stamp = [(file.name, *changed(file)) for file in files]
    key = (files[0].parent.resolve().as_posix(), shape, crop)
    kept = copied(Original(name, key, stamp, len(files), images, tables), cache)
    return source if kept is None else ArrayImages(Stored([kept.part]), files=files)
