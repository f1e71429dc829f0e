"""One image file as pixels."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error, IndexError, KeyError, TypeError),
    *(OverflowError, MemoryError, Image.DecompressionBombError),
)  # what Pillow raises for damaged, foreign and gigantic files


def decode(file: Path | BytesIO, channels: int, resize: int | None, crop: int | None) -> Tensor:
    """One image file as uint8 (C, H, W): turned upright, resized and cropped as asked."""
    image = upright(file).convert("L" if channels == 1 else "RGB")
    if resize:
        image = fitted(image, resize)
    if crop:
        left, top = (image.width - crop) // 2, (image.height - crop) // 2
        image = image.crop((left, top, left + crop, top + crop))
    pixels = torch.from_numpy(np.array(image))
    return pixels.reshape(image.height, image.width, channels).permute(2, 0, 1)


def upright(file: Path | BytesIO) -> Image.Image:
    """One image file turned as its EXIF orientation says, in its own mode, 8 bits a value."""
    try:
        opened = Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("not an image of a known format") from None
    with opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode == "F" or (image.mode == "I" and opened.format != "PNG"):
            raise ValueError("values of 32 bits, whose range is anyone's guess")
        if image.mode.startswith("I"):  # 16 bits a value: keep the upper 8
            image = Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    return image


def fitted(image: Image.Image, size: int) -> Image.Image:
    """The centre square of an image at a size, resampled by Pillow's antialiased bicubic."""
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
