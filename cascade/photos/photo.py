"""A photo of any mode, as what a stage takes, and back: alpha, profile and colours are kept."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor

from cascade.data.decoding import UNREADABLE, upright
from cascade.photos.canvas import Pixels, spans
from cascade.utils.files import whole
from stages import InputError

PROFILED = {
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
}  # modes a profile stays true of


@dataclass(frozen=True)
class Format:
    """How a kind of file is written, without loss, and its longest side in pixels."""

    longest: int
    options: dict[str, Any] = field(default_factory=dict)


FORMATS = {
    "png": Format(2**31 - 1),
    "tiff": Format(2**31 - 1, {"compression": "tiff_deflate"}),
    "webp": Format(2**14 - 1, {"lossless": True}),
}


@dataclass
class Photo:
    """An upright ``picture`` of mode L, LA, RGB or RGBA, and what is ``kept`` beside its pixels.

    ``kept`` holds the EXIF data, without the orientation, and the colour profile, as `PIL` takes
    them on saving.
    """

    picture: Image.Image
    kept: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def open(cls, file: str | Path) -> Photo:
        """Read a file of any mode and format Pillow knows; `InputError` where that fails."""
        try:
            image = upright(Path(file))
            return cls(image.convert(_mode(image)), _kept(image))
        except UNREADABLE as error:
            raise InputError(f"cannot read image {file}: {error}") from None

    @classmethod
    def of(cls, pixels: Pixels) -> Photo:
        """The photo of uint8 pixels (C, h, w), one channel or three."""
        return cls(_image(pixels))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.picture.height, self.picture.width

    def pixels(self, channels: int) -> Tensor:
        """What a stage of one channel (luma) or three takes, uint8 (C, h, w)."""
        seen = np.array(self.picture.convert("L" if channels == 1 else "RGB"))
        return torch.from_numpy(seen).reshape(*self.size, channels).permute(2, 0, 1)

    def enlarged(self, pixels: Pixels) -> Photo:
        """This photo with the ``pixels`` uint8 (C, H, W) that a stage made of its own.

        What the stage does not see is enlarged by cubic interpolation: alpha, and the colours
        beside the luma of a stage of one channel. Pillow holds 4 bytes a pixel of a colour
        picture, 1 of a grey one: once of what the stage sees, once more with alpha, and four times
        where colours are put beside luma.
        """
        made, mode = _image(pixels), self.picture.mode
        if made.mode == "L" and mode.startswith("RGB"):
            rest = self.picture.resize(made.size, Image.Resampling.BICUBIC)
            _, *chroma = rest.convert("YCbCr").split()
            made = Image.merge("YCbCr", [made, *chroma])
        if made.mode != mode.removesuffix("A"):
            made = made.convert(mode.removesuffix("A"))
        if mode.endswith("A"):
            alpha = self.picture.getchannel("A")
            made.putalpha(alpha.resize(made.size, Image.Resampling.BICUBIC))
        return Photo(made, self.kept)

    def recoloured(self, pixels: Tensor) -> Photo:
        """This photo with the ``pixels`` uint8 (3, h, w) in place of its own; alpha is kept."""
        made = _image(pixels)
        if self.picture.mode.endswith("A"):
            made.putalpha(self.picture.getchannel("A"))
        grey = self.picture.mode.startswith("L")  # whose profile is of no colours
        kept = {k: v for k, v in self.kept.items() if not (grey and k == "icc_profile")}
        return Photo(made, kept)

    def save(self, file: str | Path) -> None:
        """Write the photo, whole or not at all, as one of `FORMATS`."""
        options = FORMATS[Path(file).suffix[1:]].options
        with whole(file) as aside:
            self.picture.save(aside, **options, **self.kept)


def _image(pixels: Pixels) -> Image.Image:
    channels, height, width = pixels.shape
    picture = Image.new("L" if channels == 1 else "RGB", (width, height))
    for rows in spans(height):
        values = pixels[:, rows.start : rows.stop].permute(1, 2, 0).numpy()
        values = values.squeeze(2) if channels == 1 else values
        picture.paste(Image.fromarray(np.ascontiguousarray(values)), (0, rows.start))
    return picture


def _mode(image: Image.Image) -> str:
    alpha = image.mode.lower().endswith("a") or "transparency" in image.info
    grey = image.mode in ("1", "L", "LA", "La")
    return ("L" if grey else "RGB") + "A" * alpha


def _kept(image: Image.Image) -> dict[str, bytes]:
    exif = image.getexif()
    exif.pop(Base.Orientation, None)
    profile = image.info.get("icc_profile") if image.mode in PROFILED else None
    kept = {"exif": exif.tobytes() if exif else None, "icc_profile": profile}
    return {name: value for name, value in kept.items() if value}
