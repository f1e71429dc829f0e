"""Files that strangers send: looked at before they are decoded, and small enough to work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cascade.data.decoding import UNREADABLE, fitted
from cascade.photos.photo import Photo
from stages import InputError

FILES = 16  # at once
MEGABYTES = 16  # of a file
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")  # none that runs programs, as PostScript
CHANGES = {
    "size": "were of another size: their centre squares were resampled, which changes their bits",
    "alpha": "are transparent in places: what is scored is the colours that lie behind that",
    "colours": "are in colour: the model sees how light they are, nothing else",
}
PIXELS = 24 * 10**6  # of an image: those of a good telephone


def open_photo(file: str | Path) -> Photo:
    """An uploaded image; `InputError` where it is not of `FORMATS`, or has more than `PIXELS`."""
    name = Path(file).name
    try:
        with Image.open(file, formats=FORMATS) as opened:
            width, height = opened.size
    except UNREADABLE:
        raise InputError(f"{name} is no image of these formats: {', '.join(FORMATS)}") from None
    if width * height > PIXELS:
        raise InputError(
            f"{name} has {width}x{height} pixels: make it smaller, "
            f"{PIXELS // 10**6} million are the most"
        )
    try:
        return Photo.open(file)
    except InputError as error:
        raise InputError(str(error).replace(str(file), name)) from None


def open_images(
    files: Sequence[str | Path] | None, shape: tuple[int, int, int]
) -> tuple[Tensor, list[str]]:
    """Uploaded images as a cascade takes them, uint8 (N, C, H, W), and what was changed of them.

    One of another size is cut to its centre square, and resampled to H×W; transparency is left out,
    and of a cascade of one channel colours are. Raises `InputError` for none or more than `FILES`
    of them, and as `open_photo` does.
    """
    if not files:
        raise InputError("drop an image first")
    if len(files) > FILES:
        raise InputError(f"{len(files)} images are too many: {FILES} at once")
    channels, *size = shape
    images, counts = [], Counter[str]()
    for file in files:
        photo = open_photo(file)
        if list(photo.size) != size:
            counts["size"] += 1
            photo = Photo(fitted(photo.picture, size[0]))
        counts.update(_unseen(photo.picture, channels))
        images.append(photo.pixels(channels))
    changes = [f"{counts[kind]} of {len(files)} images {CHANGES[kind]}." for kind in counts]
    return torch.stack(images), changes


def _unseen(picture: Image.Image, channels: int) -> Iterator[str]:
    """What of `CHANGES` a cascade of so many channels does not see of a picture."""
    if picture.mode.endswith("A") and np.array(picture.getchannel("A")).min() < 255:
        yield "alpha"
    if channels == 1 and np.ptp(np.array(picture.convert("RGB")), axis=2).any():
        yield "colours"


def middle(photo: Photo, side: int) -> Photo:
    """The middle of a photo, ``side`` pixels wide and high, or less where the photo is smaller."""
    (height, width), picture = photo.size, photo.picture
    wide, tall = min(side, width), min(side, height)
    left, top = (width - wide) // 2, (height - tall) // 2
    return Photo(picture.crop((left, top, left + wide, top + tall)), photo.kept)
