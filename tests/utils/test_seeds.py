"""Noise is a function of what it is for."""

import pytest
import torch

from cascade.utils.seeds import (
    generator,
    image_digest,
    image_noise,
    noise_window,
    sample_noise,
    uniform,
)


def test_noise_belongs_to_the_image():
    images = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8)
    noise = image_noise(images, (1, 4, 4), 0, 1, 2)
    assert torch.equal(image_noise(images.flip(0), (1, 4, 4), 0, 1, 2), noise.flip(0))
    for other in ((1, 1, 2), (0, 0, 2), (0, 1, 0)):
        assert not torch.equal(image_noise(images, (1, 4, 4), *other), noise)
    assert torch.equal(sample_noise((2, 3), 7, 0, 4, 6), sample_noise((2, 3), 7, 0, 0, 10)[4:])


def test_uniform_noise_is_uniform():
    noise = uniform((100_000,), torch.Generator().manual_seed(0))
    assert noise.min() > 0 and noise.max() < 1
    assert noise.mean() == pytest.approx(0.5, abs=0.005)
    assert noise.var() == pytest.approx(1 / 12, abs=0.002)


def test_a_noise_field_is_one_through_every_window():
    field = noise_window(2, range(-70, 130), range(-5, 80), "key")
    assert field.shape == (2, 200, 85)
    assert torch.equal(noise_window(2, range(60, 75), range(0, 66), "key"), field[:, 130:145, 5:71])
    assert not torch.equal(
        noise_window(2, range(60, 75), range(0, 66), "other"), field[:, :15, :66]
    )
    assert field.mean().abs() < 0.02 and (field.std() - 1).abs() < 0.02


def test_a_generator_is_a_function_of_its_parts():
    def first(*parts):
        return torch.randint(0, 2**62, (1,), generator=generator(*parts)).item()

    torch.manual_seed(0)
    found = [first(*parts) for parts in ((), (1,), ("1",), (b"1",), (1, 2), (12,), (2, 1))]
    assert len(set(found)) == len(found)
    torch.manual_seed(1)
    assert first(1, 2) == found[4]


def test_a_digest_is_of_the_values_however_they_lie():
    image = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    turned = image.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    assert image_digest(turned) == image_digest(image) != image_digest(image + 1)
