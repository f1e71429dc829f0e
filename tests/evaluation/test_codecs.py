"""Sizes of lossless image files."""

import io

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor

from cascade.evaluation.codecs import SETTINGS, file_bpd


def test_file_sizes():
    images = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert (file_bpd(images, "PNG") < 1).all() and (file_bpd(images, "WebP") < 1).all()
    noise = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert (file_bpd(noise, "PNG") > 8).all()


@pytest.mark.parametrize("codec", SETTINGS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_holds_its_image_alone_and_all_of_it(codec, channels):
    smooth = (
        torch.arange(16).expand(3, channels, 8, 16) * torch.tensor([1, 4, 15])[:, None, None, None]
    )
    images = smooth.to(torch.uint8)
    together = file_bpd(images, codec)
    assert together.dtype == torch.float64
    assert torch.equal(file_bpd(images.flip(0), codec), together.flip(0))
    for image, bpd in zip(images, together.tolist(), strict=True):
        pixels = Image.fromarray(image.permute(1, 2, 0).squeeze(2).numpy())
        pixels.save(file := io.BytesIO(), codec, **SETTINGS[codec])
        assert bpd == 8 * len(file.getvalue()) / image.numel()
        back = pil_to_tensor(Image.open(file).convert(pixels.mode))
        assert torch.equal(back, image)
