"""Image files as tiles of a model's size, and tiles as PNG files again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cascade.data.decoding import UNREADABLE, upright
from cascade.data.folders import EXTENSIONS
from stages import InputError

GREY, COLOUR = "L", "RGB"
AS_THEY_ARE = {"1": GREY, "L": GREY, "P": COLOUR, "RGB": COLOUR}  # modes, and what they become
MOST_PIXELS = 2**28  # of an image
FORBIDDEN = set('\\:*?"<>|')  # in names, on one system or another


def find_images(given: Sequence[str]) -> dict[str, Path]:
    """Image files by the name that each has in an archive, in their order.

    A file is known by its own name, one of a folder by its path in it; ``.png`` takes the place of
    other endings. Raises `InputError` where there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    for word in given:
        path = Path(word)
        if path.is_dir():
            files = [f for f in sorted(path.rglob("*")) if f.suffix.lower() in EXTENSIONS]
            pairs = [(f.relative_to(path), f) for f in files if f.is_file()]
        elif path.is_file():
            pairs = [(Path(path.name), path)]
        else:
            raise InputError(f"there is no image {word}")
        for inner, file in pairs:
            name = inner.with_suffix(".png").as_posix()
            check_name(name)
            if name in found:
                raise InputError(
                    f"{found[name]} and {file} would both be {name}: compress them apart, or "
                    "rename one"
                )
            found[name] = file
    if not found:
        raise InputError(f"there are no images in {', '.join(given)}")
    return found


def check_name(name: str) -> None:
    """Raise `InputError` unless a name lies within a folder, on every system."""
    parts = PurePosixPath(name).parts
    sound = 0 < len(name) <= 1024 and name.isprintable() and not FORBIDDEN & set(name)
    if not sound or name.startswith("/") or "//" in name or {"", ".", ".."} & set(parts):
        raise InputError(f"{name!r} cannot be a file's name in an archive")


def read_pixels(file: Path) -> Tensor:
    """An image file's pixels uint8 (1 or 3, H, W), upright.

    Raises `InputError` where it cannot be read, or has what these pixels do not hold: transparency,
    or values of more than 8 bits.
    """
    try:
        with Image.open(file) as opened:
            frames, mode = getattr(opened, "n_frames", 1), opened.mode
            if ";16" in str([tile[3] for tile in opened.tile]):  # Pillow drops the lower 8 bits
                mode = f"{mode} of 16 bits"
            clear = "transparency" in opened.info
        if mode not in AS_THEY_ARE or clear:
            kind = "transparency" if clear or mode.endswith("A") else f"the mode {mode}"
            raise InputError(f"{file} has {kind}: only grey and RGB images of 8 bits keep it all")
        if frames > 1:
            raise InputError(f"{file} is an animation: only single images keep it all")
        pixels = torch.from_numpy(np.array(upright(file).convert(AS_THEY_ARE[mode])))
    except UNREADABLE as error:
        raise InputError(f"cannot read image {file}: {error}") from None
    if pixels.shape[0] * pixels.shape[1] > MOST_PIXELS:
        raise InputError(f"{file} has more than {MOST_PIXELS:,} pixels: cut it up")
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def write_pixels(pixels: Tensor, file: Path) -> None:
    """Write uint8 (1 or 3, H, W) as PNG."""
    picture = pixels[0] if len(pixels) == 1 else pixels.permute(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(picture.numpy())).save(file, "PNG")


def count_tiles(mode: str, height: int, width: int, shape: tuple[int, int, int]) -> int:
    """Tiles of a model's ``shape`` (C, S, S) that an image takes."""
    channels, size, _ = shape
    planes = 3 if mode == COLOUR and channels == 1 else 1
    return planes * -(-height // size) * -(-width // size)


def to_tiles(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Tiles uint8 (N, C, S, S) of pixels (1 or 3, H, W): row by row, plane by plane.

    Beyond an image's right and lower border its last pixels are repeated, which costs few bits. A
    model of one channel sees the planes of a colour image one after the other, a model of colour
    a grey image three times at once.
    """
    channels, size, _ = shape
    planes = pixels[:, None] if channels == 1 else pixels.expand(channels, -1, -1)[None]
    height, width = pixels.shape[1:]
    rows, columns = (torch.arange(-(-n // size) * size).clamp(max=n - 1) for n in (height, width))
    planes = planes[:, :, rows][..., columns]
    blocks = planes.unfold(2, size, size).unfold(3, size, size)
    return blocks.permute(0, 2, 3, 1, 4, 5).reshape(-1, channels, size, size)


def from_tiles(tiles: Tensor, mode: str, height: int, width: int) -> Tensor:
    """The pixels (1 or 3, H, W) that `to_tiles` cut up."""
    channels, size = tiles.shape[1:3]
    rows, columns = -(-height // size), -(-width // size)
    blocks = tiles.reshape(-1, rows, columns, channels, size, size).permute(0, 3, 1, 4, 2, 5)
    planes = blocks.reshape(-1, rows * size, columns * size)[:, :height, :width]
    return planes[:1] if mode == GREY else planes


def grouped(parts: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """Tiles of all parts, ``size`` at a time; the last ones are fewer."""
    waiting: list[Tensor] = []
    for part in parts:
        waiting.append(part)
        while sum(map(len, waiting)) >= size:
            joined = torch.cat(waiting)
            yield joined[:size]
            waiting = [joined[size:]]
    if any(map(len, waiting)):
        yield torch.cat(waiting)
