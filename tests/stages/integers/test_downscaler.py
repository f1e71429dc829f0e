"""The learned low image: integers, from integers, with gradients."""

import torch
from conftest import randomise

from cascade.transforms.dequantise import centre, dequantise, quantise
from stages.integers.downscaler import Downscaler


def images(bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randint(2**bits, (5, 3, 8, 6)), torch.randint(2**bits, (5, 3, 4, 3))


def test_it_starts_from_the_low_image():
    image, low = (centre(x, torch.float64, 5) for x in images(5))
    assert Downscaler(3, 8, bits=5).double()(image, low).equal(low)


def test_it_gives_integers_within_range_whatever_the_noise():
    image, low = images(3)
    downscaler = randomise(Downscaler(3, 8, bits=3), 3.0)
    y = centre(low, torch.float64, 3)
    results = [
        downscaler(dequantise(image, torch.full((), u, dtype=torch.float64), 3), y)
        for u in (0.0, 0.3, 0.999)
    ]
    assert all(result.equal(results[0]) for result in results)
    assert results[0].equal(centre(quantise(results[0], 3), torch.float64, 3))
    assert not results[0].equal(y) and results[0].abs().max() == 7 / 16


def test_gradients_pass_the_rounding():
    image, low = (centre(x, torch.float64) for x in images(8))
    downscaler = randomise(Downscaler(3, 8), 0.01)
    result = downscaler(image, low)
    weights = torch.randn_like(result)
    (result * weights).sum().backward()
    inside = result.abs() < 0.49
    expected = (weights * inside).sum((0, 2, 3)) / 16  # of the last bias
    torch.testing.assert_close(downscaler.last.bias.grad, expected, rtol=0.05, atol=0.05)
    assert all(p.grad.any() for p in downscaler.parameters())
