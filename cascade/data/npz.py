"""Arrays of an `.npz` file, whose headers are believed no further than the file's size allows."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import IO

import numpy as np
import psutil
from numpy.lib import format as npy

from stages import InputError

UNREADABLE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, OverflowError, MemoryError),
    *(SyntaxError, RecursionError, NotImplementedError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error),
)  # what a damaged file may raise: NotImplementedError and RuntimeError by compression, encryption


def read_npz(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that a file holds.

    Raises `InputError` where it is damaged, or too much to hold.

    Nothing is unpickled. Each array's header must agree with the size of its data before memory is
    taken for it.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            result = {member.filename: member for member in archive.infolist()}
            members = {n: result[f"{n}.npy"] for n in names if f"{n}.npy" in result}
            _check_memory(sum(member.file_size for member in members.values()), file)
            for member in members.values():
                with archive.open(member) as data:
                    _check_header(data, member)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in members}
    except InputError:
        raise
    except UNREADABLE as error:
        reason = shorten(str(error) or type(error).__name__, 200)  # some quote the file's bytes
        raise InputError(f"cannot read {file}: {reason}") from None


def _check_memory(needed: int, file: Path) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{file} takes {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free"
        )


def _check_header(data: IO[bytes], member: zipfile.ZipInfo) -> None:
    """Raise `ValueError` unless an array's header claims as many bytes as there are."""
    version = npy.read_magic(data)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{member.filename} is of the unknown format {version}")
    shape, _, dtype = read(data)
    claimed, there = math.prod(shape) * dtype.itemsize, member.file_size - data.tell()
    if dtype.hasobject or claimed != there:
        raise ValueError(f"{member.filename} claims to hold {dtype} {shape}, which it does not")
