"""The pyramid in integers, and what lies between integers and floats."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cascade.transforms.bicubic import TAPS
from cascade.transforms.dequantise import centre, dequantise, expand_bits, quantise, reduce_bits
from cascade.transforms.pyramid import halve, halve_to, pyramid
from stages import InputError


def photograph() -> torch.Tensor:
    from skimage.data import astronaut

    return torch.from_numpy(np.array(astronaut())).permute(2, 0, 1)[None]


@pytest.mark.parametrize("make", [photograph, lambda: torch.randint(0, 256, (4, 1, 32, 32))])
def test_equals_antialiased_bicubic_away_from_the_border(make):
    image = make()
    exact = F.interpolate(image.double(), scale_factor=0.5, mode="bicubic", antialias=True)
    expected = torch.floor(exact + 0.5).clamp(0, 255).to(torch.uint8)
    inside = (..., slice(2, -2), slice(2, -2))
    assert torch.equal(halve(image)[inside], expected[inside])


def test_keeps_constants_and_clips():
    assert sum(TAPS) == 256
    assert (halve(torch.full((1, 1, 8, 8), 255)) == 255).all()
    edge = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
    edge[..., 8:] = 255
    low = halve(edge)
    assert low.dtype == torch.uint8 and low.min() == 0 and low.max() == 255


def test_same_bits_for_any_batch():
    images = torch.randint(0, 256, (100, 3, 16, 16), dtype=torch.uint8)
    together = halve(images)
    assert torch.equal(together, torch.cat([halve(i[None]) for i in images]))


def test_commutes_with_flips():
    image = photograph()
    assert torch.equal(halve(image.flip(3)), halve(image).flip(3))


def test_levels_and_sizes():
    image = photograph()
    low, middle, full = pyramid(image, 3)
    assert torch.equal(full, image) and torch.equal(middle, halve(image))
    assert torch.equal(low, halve_to(image, 128))
    with pytest.raises(InputError, match="512 cannot be halved to 100"):
        halve_to(image, 100)
    with pytest.raises(InputError, match="even sides"):
        halve(image[..., :-1])


@pytest.mark.parametrize("bits", [1, 3, 5, 8])
def test_every_value_survives(bits):
    values = torch.arange(2**bits, dtype=torch.uint8)
    shown = expand_bits(values, bits)
    assert torch.equal(reduce_bits(shown, bits), values) and shown.max() == 255
    assert torch.equal(quantise(centre(values, bits=bits), bits), values)
    for edge in (0.5 / 2**14, 1 - 0.5 / 2**14):
        y = dequantise(values, torch.full(values.shape, edge), bits)
        assert torch.equal(quantise(y, bits), values)
        assert y.min() >= -0.5 and y.max() < 0.5


def test_quantise_clips_and_survives_what_is_not_finite():
    y = torch.tensor([-9.0, 9.0, float("inf"), float("-inf"), float("nan")])
    assert quantise(y).tolist() == [0, 255, 255, 0, 128]
