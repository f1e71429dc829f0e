"""One image file as pixels: upright, of 8 bits, at a size."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.data.decoding import decode, fitted, upright


def file_of(image: Image.Image, kind: str = "PNG", **options: object) -> io.BytesIO:
    image.save(file := io.BytesIO(), kind, **options)
    file.seek(0)
    return file


def picture(mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGB", 1), ("L", 3)])
def test_pixels_are_the_file_s(mode, channels):
    found = decode(file_of(picture(mode)), channels, None, None)
    assert found.dtype == torch.uint8 and found.shape == (channels, 6, 10)
    expected = np.array(picture(mode).convert("L" if channels == 1 else "RGB"))
    assert np.array_equal(found.permute(1, 2, 0).squeeze(2).numpy(), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    given = np.array(picture())
    turned = np.array(upright(file_of(picture(), exif=exif)))
    changed = given.swapaxes(0, 1) if orientation > 4 else given
    flips = {1: (), 2: (1,), 3: (0, 1), 4: (0,), 5: (), 6: (1,), 7: (0, 1), 8: (0,)}
    assert np.array_equal(turned, np.flip(changed, flips[orientation]))


def test_of_16_bits_the_upper_8_are_kept():
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    found = decode(file_of(Image.fromarray(values)), 1, None, None)
    assert np.array_equal(found[0].numpy(), values >> 8)
    with pytest.raises(ValueError, match="32 bits"):
        upright(file_of(Image.fromarray(values.astype(np.float32)), "TIFF"))
    with pytest.raises(ValueError, match="not an image"):
        upright(io.BytesIO(b"no image at all"))


def test_the_centre_is_cropped_and_resized():
    whole = decode(file_of(picture()), 3, None, None)
    assert torch.equal(decode(file_of(picture()), 3, None, 4), whole[:, 1:5, 3:7])
    assert decode(file_of(picture()), 3, 12, None).shape == (3, 12, 12)
    assert decode(file_of(picture()), 3, 12, 8).shape == (3, 8, 8)
    flat = Image.new("RGB", (30, 20), (7, 8, 9))
    assert fitted(flat, 5).getcolors() == [(25, (7, 8, 9))]
