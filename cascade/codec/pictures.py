"""Image files as tiles of a model's size, and tiles as PNG files again."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cascade.data.decoding import UNREADABLE, upright
from cascade.data.folders import EXTENSIONS
from stages import InputError, InputWarning

GREY, COLOUR = "L", "RGB"
AS_THEY_ARE = {"1": GREY, "L": GREY, "P": COLOUR, "RGB": COLOUR}  # modes, and what they become
MOST_PIXELS = 2**28  # of an image
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # whose contents are known
LAYOUTS = ("1", "1;I", "L", "L;I", "L;2", "L;4", "P", "P;1", "P;2", "P;4", "RGB", "BGR")  # in files
BITS_PER_SAMPLE, SAMPLES, EXTRA_SAMPLES = 258, 277, 338  # tags of TIFF
FORBIDDEN = set('\\:*?"<>|')  # in names, on one system or another
RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{i}" for d in ("com", "lpt") for i in range(1, 10))}
LONGEST = 200  # bytes of a part of a name


def find_images(given: Sequence[str]) -> dict[str, Path]:
    """Image files by the name that each has in an archive, in their order.

    A file is known by its own name, one of a folder by its path in it; ``.png`` takes the place of
    other endings. Files of a folder that are no images are left out, with a remark. Raises
    `InputError` where there are none, or two of one name.
    """
    found: dict[str, Path] = {}
    places: dict[str, Path] = {}  # by name as a system sees it that does not tell A from a
    for word in given:
        path = Path(word)
        if path.is_dir():
            files = [f for f in sorted(path.rglob("*")) if not f.is_dir()]
            chosen = [f for f in files if f.suffix.lower() in EXTENSIONS and f.is_file()]
            if left := sorted(set(files) - set(chosen)):
                remark = f"{len(left)} files of {word} are no images, such as {left[0]}: left out"
                warnings.warn(remark, InputWarning, stacklevel=2)
            pairs = [(f.relative_to(path), f) for f in chosen]
        elif path.is_file():
            pairs = [(Path(path.name), path)]
        else:
            raise InputError(f"there is no image {word}")
        for inner, file in pairs:
            name = inner.with_suffix(".png").as_posix()
            check_name(name)
            other = places.setdefault(folded(name), file)
            if other is not file:
                raise InputError(
                    f"{other} and {file} would both be {name}: compress them apart, or rename one"
                )
            found[name] = file
    if not found:
        raise InputError(f"there are no images in {', '.join(given)}")
    return found


def check_name(name: str) -> None:
    """Raise `InputError` unless a name is that of a PNG file within a folder, on every system."""
    parts = name.split("/")
    sound = name.isprintable() and not FORBIDDEN & set(name) and name.endswith(".png")
    for part in parts:
        sound &= part not in ("", ".png") and part == part.strip(" ").rstrip(".")
        sound &= len(part.encode("utf-8", "surrogateescape")) <= LONGEST
        sound &= part.split(".")[0].casefold() not in RESERVED
    if not sound or len(name) > 1024:
        raise InputError(f"{name!r} cannot be a file's name in an archive")


def folded(name: str) -> str:
    """What names are the same by, on systems that do not tell some apart."""
    return unicodedata.normalize("NFC", name).casefold()


def read_pixels(file: Path) -> Tensor:
    """An image file's pixels uint8 (1 or 3, H, W), upright.

    Raises `InputError` where it cannot be read, or has what these pixels do not hold: transparency,
    or values of more than 8 bits.
    """
    try:
        with Image.open(file) as opened:
            mode, lost = opened.mode, _lost(opened)
        image = None if lost else upright(file).convert(AS_THEY_ARE[mode])
    except UNREADABLE as error:
        raise InputError(f"cannot read image {file}: {error}") from None
    if image is None:
        raise InputError(f"{file} has {lost}: only single images, grey or RGB, of 8 bits are kept")
    pixels = torch.from_numpy(np.array(image))
    if pixels.shape[0] * pixels.shape[1] > MOST_PIXELS:
        raise InputError(f"{file} has more than {MOST_PIXELS:,} pixels: cut it up")
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)


def _lost(opened: Any) -> str:
    """What of an image file its grey or RGB pixels of 8 bits would not hold; "" if nothing.

    Pillow itself drops channels and lower bits of some formats unasked.
    """
    if opened.format not in FORMATS:
        return f"the format {opened.format}"
    if "transparency" in opened.info or opened.mode.endswith(("A", "a")):
        return "transparency"
    if opened.mode not in AS_THEY_ARE:
        return f"the mode {opened.mode}"
    if getattr(opened, "n_frames", 1) > 1:
        return "several frames"
    if opened.palette and opened.palette.mode != "RGB":
        return "a palette with transparency"
    if opened.format == "TIFF":
        tags: Any = opened.getexif()
        bits = tags.get(BITS_PER_SAMPLE, 1)
        deep = max(bits) if isinstance(bits, tuple) else bits
        more = tags.get(SAMPLES, 1) > len(opened.getbands()) or tags.get(EXTRA_SAMPLES)
        if deep > 8 or more:
            return "more channels" if more else f"values of {deep} bits"
    for _, _, _, details in opened.tile:  # how the file's bytes become pixels
        layout = details[0] if isinstance(details, tuple) else details
        deepest = details[1] if opened.format == "PPM" and isinstance(details, tuple) else 255
        known = layout in LAYOUTS or opened.format in ("GIF", "WEBP")
        if not known or deepest != 255:
            return f"a layout of {layout}"
    return ""


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
    free = size
    for part in parts:
        start = 0
        while start < len(part):
            waiting.append(part[start : start + free])
            start += len(waiting[-1])
            free -= len(waiting[-1])
            if not free:
                yield torch.cat(waiting)  # a copy: a view would take the whole image with it
                waiting, free = [], size
    if waiting:
        yield torch.cat(waiting)
