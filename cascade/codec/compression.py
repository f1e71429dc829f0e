"""Images into an archive, and out of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cascade.chain import Cascade
from cascade.codec.archive import Archive, ArchiveWriter, Entry, Index, checksum
from cascade.codec.blocks import decode, encode
from cascade.codec.fixed_stages import FixedCascade
from cascade.codec.pictures import (
    COLOUR,
    GREY,
    from_tiles,
    grouped,
    read_pixels,
    to_tiles,
    write_pixels,
)
from cascade.utils.files import whole
from cascade.utils.workers import Workers, one_thread
from stages import InputError

BLOCK = 64  # tiles
Advance = Callable[[int], None]


@dataclass
class Sizes:
    """Bytes of an archive: of its blocks, and of all else; and what it holds."""

    blocks: int
    rest: int
    images: int
    values: int

    @property
    def bits_per_value(self) -> float:
        """Of the whole archive, for each value of a pixel."""
        return 8 * (self.blocks + self.rest) / self.values


def compress(
    files: Mapping[str, Path],
    cascade: Cascade,
    model: str,
    folder: Path,
    out: Path,
    block: int = BLOCK,
    verify: bool = True,
    processes: int = 1,
    advance: Advance = lambda images: None,
) -> Sizes:
    """Write image files by their names into an archive; it is there whole or not at all.

    Args:
        files: what `find_images` gives.
        cascade: the model, of mixtures alone.
        model: its name, which the archive remembers.
        folder: its folder, for other processes to read.
        out: the archive.
        block: tiles that are coded together: more take fewer bytes, and longer to take one out.
        verify: decode every block, and compare.
        processes: how many work at once, each with one thread.
        advance: is told of images as they are read.

    Raises:
        InputError: the model cannot code, an image cannot be kept without loss, or a block does not
            decode to what was encoded.
    """
    entries: list[Entry] = []
    values = 0

    def tiles() -> Iterator[Tensor]:
        nonlocal values
        for name, file in files.items():
            pixels = read_pixels(file)
            height, width = pixels.shape[1:]
            entries.append(Entry(name, GREY if len(pixels) == 1 else COLOUR, height, width))
            values += pixels.numel()
            yield to_tiles(pixels, cascade.shape)
            advance(1)

    checks: list[int] = []
    encoding = partial(encoder, verify=verify)
    weights, shape = {stage.name: stage.digest for stage in cascade.stages}, list(cascade.shape)
    with whole(out) as aside:
        with (
            mapping(encoding, cascade, folder, processes) as apply,
            ArchiveWriter(aside) as writer,
        ):
            for data, check in apply(grouped(tiles(), block)):
                writer.add(data)
                checks.append(check)
            writer.end(Index(model, weights, shape, block, checks, entries, version("csrflow")))
        total = aside.stat().st_size
    return Sizes(writer.bytes, total - writer.bytes, len(entries), values)


def decompress(
    archive: Archive,
    cascade: Cascade,
    folder: Path,
    out: Path,
    names: list[str],
    processes: int = 1,
    advance: Advance = lambda images: None,
) -> None:
    """Write images of an archive, by their names in it, as PNG files into the folder ``out``.

    Only the blocks that hold them are decoded. Raises `InputError` where the model is another than
    the archive's, and at the first block that is damaged or decodes to other pixels than were
    encoded; images of the blocks before are written then.
    """
    check_weights(archive, cascade)
    index, size = archive.index, archive.index.block
    ends = list(itertools.accumulate(index.tiles))
    spans = {
        entry.name: (entry, end - count, end)
        for entry, count, end in zip(index.files, index.tiles, ends, strict=True)
    }
    asked = set(names)
    wanted = [span for name, span in spans.items() if name in asked]
    blocks = list(dict.fromkeys(n for _, start, end in wanted for n in _blocks(start, end, size)))
    tasks = ((archive.block(n), min(size, ends[-1] - n * size)) for n in blocks)
    with mapping(decoder, cascade, folder, processes) as apply:
        decoded = zip(blocks, apply(tasks), strict=True)
        here: dict[int, Tensor] = {}
        for entry, start, end in wanted:
            needed = _blocks(start, end, size)
            while needed[-1] not in here:
                number, tiles = next(decoded)
                archive.check(number, tiles)
                here[number] = tiles
            first = needed[0] * size
            tiles = torch.cat([here[number] for number in needed])[start - first : end - first]
            with whole(out / entry.name) as aside:
                write_pixels(from_tiles(tiles, entry.mode, entry.height, entry.width), aside)
            here = {needed[-1]: here[needed[-1]]}  # which may hold the next one's first tiles
            advance(1)


def _blocks(start: int, end: int, size: int) -> range:
    """Numbers of the blocks that tiles from ``start`` to ``end`` are in."""
    return range(start // size, -(-end // size))


def check_weights(archive: Archive, cascade: Cascade) -> None:
    """Raise `InputError` unless a model is the one that an archive was made with."""
    index = archive.index
    same = list(cascade.shape) == index.shape
    if not same or {stage.name: stage.digest for stage in cascade.stages} != index.weights:
        raise InputError(
            f"{archive.file} was made with other weights, of a model named {index.model!r}: give "
            "that one by --model"
        )


def encoder(cascade: Cascade, verify: bool) -> Callable[[Tensor], tuple[bytes, int]]:
    """A function of a block's tiles: its bytes, and the checksum of its pixels."""
    fixed = FixedCascade(cascade)

    def apply(tiles: Tensor) -> tuple[bytes, int]:
        data = encode(fixed, tiles)
        if verify and not decode(fixed, data, len(tiles)).equal(tiles):
            raise InputError(
                "a block does not decode to what was encoded: please report this fault"
            )
        return data, checksum(tiles)

    return apply


def decoder(cascade: Cascade) -> Callable[[tuple[bytes, int]], Tensor]:
    """A function of a block's bytes and of how many tiles it holds: these tiles."""
    fixed = FixedCascade(cascade)
    return lambda task: decode(fixed, *task)


@contextmanager
def mapping(
    make: Callable[..., Callable[[Any], Any]], cascade: Cascade, folder: Path, processes: int
) -> Iterator[Callable[[Iterable[Any]], Iterator[Any]]]:
    """What applies a function made of the cascade to tasks, in as many processes, in order."""
    if processes == 1:
        with one_thread():
            yield partial(map, make(cascade))
        return
    names = [stage.name for stage in cascade.stages]
    with Workers(processes, made_elsewhere, make, folder, names) as workers:
        yield workers.map


def made_elsewhere(
    make: Callable[..., Callable[[Any], Any]], folder: Path, names: list[str]
) -> Callable[[Any], Any]:
    """What a worker applies: the function, made of the cascade that it reads itself."""
    return make(Cascade.load(folder, names))
