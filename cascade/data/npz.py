"""Arrays of `.npz` and `.npy` files, whose headers are believed no further than the file's size."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError),
)  # what a damaged file may raise: NotImplementedError and RuntimeError by compression, encryption


@dataclass
class Header:
    """What a file says of an array, and where its data begins in the file.

    ``offset`` is None where it does not lie there row by row: compressed, or by ``columns``.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int | None
    columns: bool

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@contextmanager
def refusing(file: Path) -> Iterator[None]:
    """What a damaged file raises inside becomes one line, as `InputError`."""
    try:
        yield
    except InputError:
        raise
    except UNREADABLE as error:
        reason = shorten(str(error) or type(error).__name__, 200)  # some quote the file's bytes
        raise InputError(f"cannot read {file}: {reason}") from None


def read_npz(file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Those of the named arrays that a file holds.

    Raises `InputError` where it is damaged, or too much to hold.

    Nothing is unpickled. Each array's header must agree with the size of its data before memory is
    taken for it.
    """
    with refusing(file):
        with zipfile.ZipFile(file) as archive:
            members = _members(archive, names)
            _check_memory(sum(member.file_size for member in members.values()), file)
            for member in members.values():
                with archive.open(member) as data:
                    _header(data, member.filename, member.file_size)
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in members}


def npz_headers(file: Path, names: Sequence[str]) -> dict[str, Header]:
    """The headers of those of the named arrays that an `.npz` holds; `InputError` as `read_npz`."""
    result = {}
    with refusing(file), zipfile.ZipFile(file) as archive, open(file, "rb") as raw:
        for name, member in _members(archive, names).items():
            with archive.open(member) as data:
                header = _header(data, member.filename, member.file_size)
            if member.compress_type != zipfile.ZIP_STORED:
                header.offset = None
            elif header.offset is not None:
                raw.seek(
                    member.header_offset + 26
                )  # of the member's own header, 30 bytes and names
                lengths = sum(struct.unpack("<HH", raw.read(4)))
                header.offset += member.header_offset + 30 + lengths
            result[name] = header
    return result


def npy_header(file: Path) -> Header:
    """The header of an `.npy` file; `InputError` where it is damaged."""
    with refusing(file), open(file, "rb") as data:
        return _header(data, file.name, file.stat().st_size)


@contextmanager
def streamed(file: Path, name: str) -> Iterator[IO[bytes]]:
    """The data of an `.npz`'s array, row by row, uncompressed; `InputError` where it is damaged."""
    with refusing(file), zipfile.ZipFile(file) as archive:
        member = _members(archive, [name])[name]
        with archive.open(member) as data:
            _header(data, member.filename, member.file_size)
            yield data


def _members(archive: zipfile.ZipFile, names: Sequence[str]) -> dict[str, zipfile.ZipInfo]:
    there = {member.filename: member for member in archive.infolist()}
    return {name: there[f"{name}.npy"] for name in names if f"{name}.npy" in there}


def _check_memory(needed: int, file: Path) -> None:
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"{file} takes {needed / 2**30:,.1f} GiB of memory, {free / 2**30:,.1f} GiB are free"
        )


def _header(data: IO[bytes], name: str, size: int) -> Header:
    """An array's header; `ValueError` unless it claims as many bytes as there are."""
    version = npy.read_magic(data)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"{name} is of the unknown format {version}")
    shape, fortran, dtype = read(data)
    columns = fortran and len(shape) > 1
    result = Header(shape, dtype, None if columns else data.tell(), columns)
    if dtype.hasobject or min(shape, default=0) < 0 or result.bytes != size - data.tell():
        raise ValueError(f"{name} claims to hold {dtype} {shape}, which it does not")
    return result
