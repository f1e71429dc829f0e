"""The archive's file: a zip whose members are blocks of coded tiles, and an index of images.

Members are stored as they are, named by their numbers, but for the index, which is JSON, deflated,
and comes last. Every zip tool can list and test such a file.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from cascade.codec.pictures import COLOUR, GREY, MOST_PIXELS, check_name, count_tiles, folded
from stages import InputError

FORMAT = 1  # of the archive and of the arithmetic that its probabilities come from
INDEX = "index.json"
LARGEST_INDEX = 2**26  # bytes
MOST_INFLATED = 100  # bytes of the index for each that is stored
MOST_TILES = 1024  # of a block
WORST = 32  # bytes that a value takes at most
TIME = (1980, 1, 1, 0, 0, 0)  # of every member: the same images give the same archive
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError),
    *(ValueError, RuntimeError, IndexError, KeyError),
)  # what reading a zip that is none may raise


@dataclass
class Entry:
    """An image: its name, its mode, ``L`` or ``RGB``, and its size."""

    name: str
    mode: str
    height: int
    width: int


@dataclass
class Index:
    """What an archive holds.

    ``weights`` are the SHA-256 of the stages' weights by name, ``block`` is the number of tiles of
    a block, ``checks`` are the CRC-32 of every block's pixels.
    """

    model: str
    weights: dict[str, str]
    shape: list[int]
    block: int
    checks: list[int]
    files: list[Entry]
    version: str = ""
    format: int = FORMAT

    @property
    def tiles(self) -> list[int]:
        """How many tiles each image takes."""
        shape = (self.shape[0], self.shape[1], self.shape[2])
        return [count_tiles(e.mode, e.height, e.width, shape) for e in self.files]


class ArchiveWriter:
    """Writes an archive, block by block, and its index at last; a context, to be left when done."""

    def __init__(self, file: Path):
        self.zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        self.blocks = self.bytes = 0

    def add(self, data: bytes) -> None:
        """The next block."""
        self.zip.writestr(zipfile.ZipInfo(str(self.blocks), TIME), data)
        self.blocks += 1
        self.bytes += len(data)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.zip.close()

    def end(self, index: Index) -> None:
        """Write the index."""
        info = zipfile.ZipInfo(INDEX, TIME)
        text = json.dumps(asdict(index), separators=(",", ":")).encode()
        if len(text) > LARGEST_INDEX:
            raise InputError("these are too many images for one archive: make several")
        self.zip.writestr(info, text, zipfile.ZIP_DEFLATED, 9)


class Archive:
    """An archive to read. Nothing of it is trusted before it is checked.

    Raises `InputError` where it is none, damaged, or of a later version.
    """

    def __init__(self, file: str | Path):
        self.file = file
        try:
            self.zip = zipfile.ZipFile(file)
            info = self.zip.getinfo(INDEX)
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("its index is packed in a way that csrflow compress never uses")
            if info.file_size > min(LARGEST_INDEX, 2**16 + MOST_INFLATED * info.compress_size):
                raise ValueError("its index is too large")
            with self.zip.open(info) as opened:
                text = opened.read(LARGEST_INDEX)
            self.index = _index(json.loads(text))
        except FileNotFoundError:
            raise InputError(f"there is no archive {file}") from None
        except InputError as error:
            raise InputError(f"{file}: {error}") from None
        except (*DAMAGED, RecursionError, TypeError) as error:
            raise InputError(
                f"{file} is no archive of csrflow compress, or is damaged: {error}"
            ) from None

    def block(self, number: int) -> bytes:
        """A block's bytes; `InputError` where they are not those that were written."""
        channels, size, _ = self.index.shape
        most = 64 + WORST * self.index.block * channels * size * size
        try:
            info = self.zip.getinfo(str(number))
            if info.compress_type != zipfile.ZIP_STORED or info.file_size > most:
                raise ValueError("it is not as csrflow compress writes it")
            with self.zip.open(info) as opened:
                return opened.read(most)
        except DAMAGED as error:
            raise InputError(f"{self.file} is damaged at block {number}: {error}") from None

    def check(self, number: int, tiles: Tensor) -> None:
        """Raise `InputError` unless a block's decoded tiles are those that were encoded."""
        if checksum(tiles) != self.index.checks[number]:
            raise InputError(
                f"{self.file}: block {number} decodes to other pixels than were compressed; it "
                "is damaged, or this machine computes otherwise than the one that made it"
            )


def checksum(tiles: Tensor) -> int:
    """The CRC-32 of a block's pixels."""
    return zlib.crc32(tiles.contiguous().numpy().tobytes())


def _index(content: Any) -> Index:
    """The index that was read, every part of it checked; `InputError` says what is wrong."""
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise InputError("damaged: the index is none")
    if content["format"] > FORMAT:
        raise InputError(
            f"made by a later version ({content.get('version')}): update csrflow to read it"
        )
    if content.keys() != Index.__dataclass_fields__.keys():
        raise InputError("damaged: the index has other parts")
    files = content["files"]
    keys = Entry.__dataclass_fields__.keys()
    if not isinstance(files, list) or not all(
        isinstance(f, dict) and f.keys() == keys for f in files
    ):
        raise InputError("damaged: the list of images is none")
    result = Index(**content | {"files": [Entry(**file) for file in files]})
    _check(result)
    return result


def _check(index: Index) -> None:
    shape, weights = index.shape, index.weights
    sound = (
        isinstance(index.model, str)
        and isinstance(index.version, str)
        and _wholes(shape, 1, 2**12)
        and len(shape) == 3
        and shape[0] in (1, 3)
        and shape[1] == shape[2]
        and isinstance(weights, dict)
        and all(isinstance(digest, str) for digest in weights.values())
        and _wholes([index.block], 1, MOST_TILES)
        and _wholes(index.checks, 0, 2**32 - 1)
    )
    if not sound:
        raise InputError("damaged: the index has values that no archive has")
    names = set()
    for entry in index.files:
        if not isinstance(entry.name, str):
            raise InputError("damaged: an image's name is none")
        check_name(entry.name)
        names.add(folded(entry.name))
        sides = [entry.height, entry.width]
        if entry.mode not in (GREY, COLOUR) or not _wholes(sides, 1, MOST_PIXELS):
            raise InputError(f"damaged: {entry.name} has no size or mode that an image has")
        if entry.height * entry.width > MOST_PIXELS:
            raise InputError(f"damaged: {entry.name} has more than {MOST_PIXELS:,} pixels")
    if len(names) < len(index.files):
        raise InputError("damaged: two images have one name")
    if -(-sum(index.tiles) // index.block) != len(index.checks):
        raise InputError("damaged: the index lists more or fewer blocks than its images take")


def _wholes(values: Any, least: int, most: int) -> bool:
    """Whether values are a list of whole numbers within bounds."""
    return isinstance(values, list) and all(
        isinstance(v, int) and not isinstance(v, bool) and least <= v <= most for v in values
    )
