"""Decoded copies of data sets: made once, whole or not at all, again when what they are of changes.

A copy is an uncompressed `.npz` with ``images`` (N, H, W, C), beside them what was found out.
"""

from __future__ import annotations

import errno
import hashlib
import math
import shutil
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from filelock import FileLock
from numpy.lib import format as npy

from cascade.data.npz import npz_headers, read_npz
from cascade.data.stored import Part, changed
from cascade.utils.files import whole
from stages import InputError, InputWarning

FORMAT = 1  # of copies, which another version of this package may not read
Tables = dict[str, np.ndarray]


@dataclass
class Copy:
    """A copy's images, and the ``tables`` that were saved with them."""

    part: Part
    tables: Tables


@dataclass
class Original:
    """What a copy is of: ``name`` and ``key`` tell it from others, ``stamp`` its states apart.

    ``images()`` gives its ``count`` images, uint8 (H, W, C), None in place of one to leave black;
    ``tables()`` what is known once they are all read. Either may raise `InputError`.
    """

    name: str
    key: object
    stamp: object
    count: int
    images: Callable[[], Iterable[np.ndarray | None]]
    tables: Callable[[], Tables] = dict


def copied(original: Original, folder: Path) -> Copy | None:
    """The copy that a folder keeps, made first where it holds none of this state.

    Where several processes ask at once one makes it, the others wait. None where it cannot be
    written, which is said: whoever asks reads the original then.
    """
    key = hashlib.sha256(repr((original.name, original.key)).encode()).hexdigest()[:16]
    file = folder / f"{original.name}-{key}.npz"
    stamp = hashlib.sha256(repr((FORMAT, original.stamp)).encode()).hexdigest()
    if result := _opened(file, stamp):
        return result
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{file.name}.lock"):
            if result := _opened(file, stamp):
                return result
            for left in folder.glob(f".{file.stem}.*.part.npz"):
                left.unlink()  # of a process that was killed
            with whole(file) as aside:
                _write(aside, original, stamp)
    except OSError as error:
        warnings.warn(
            f"no decoded copy of {original.name} is kept: {error}; set data.cache to a folder "
            "with room for it, or to null",
            InputWarning,
            stacklevel=2,
        )
        return None
    return _opened(file, stamp)


def _opened(file: Path, stamp: str) -> Copy | None:
    """A copy of this stamp, if there is one and it is sound."""
    if not file.is_file():
        return None
    try:
        since = changed(file)
        headers = npz_headers(file, ["images", "contents"])
        tables = read_npz(file, ["stamp", "good", "problems"])
        count, height, width, channels = headers["images"].shape
    except (InputError, KeyError, ValueError):
        return None
    offset = headers["images"].offset
    if offset is None or str(tables.pop("stamp", "")) != stamp:
        return None
    shape = (count, channels, height, width)
    return Copy(Part(file, offset, shape, True, since, "contents" in headers), tables)


def _write(file: Path, original: Original, stamp: str) -> None:
    """All images one after the other, then the tables."""
    with ZipFile(file, "w", allowZip64=True) as archive:
        shape: tuple[int, ...] | None = None
        black = 0  # images before the first that is one
        with archive.open("images.npy", "w", force_zip64=True) as out:
            for image in original.images():
                if shape is None:
                    if image is None:
                        black += 1
                        continue
                    shape = image.shape
                    _check_room(file.parent, original.count * image.nbytes)
                    header = {"descr": "|u1", "fortran_order": False}
                    npy.write_array_header_1_0(out, header | {"shape": (original.count, *shape)})
                    out.write(bytes(black * image.nbytes))
                out.write(bytes(math.prod(shape)) if image is None else image.tobytes())
        for name, table in {**original.tables(), "stamp": np.array(stamp)}.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as out:
                npy.write_array(out, table, allow_pickle=False)


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = f"it takes {needed / 2**30:,.1f} GiB, {free / 2**30:,.1f} GiB are free"
        raise OSError(errno.ENOSPC, text)
