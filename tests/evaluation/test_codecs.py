"""Sizes of lossless image files."""

import torch

from cascade.evaluation.codecs import file_bpd


def test_file_sizes():
    images = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    assert (file_bpd(images, "PNG") < 1).all() and (file_bpd(images, "WebP") < 1).all()
    noise = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert (file_bpd(noise, "PNG") > 8).all()
