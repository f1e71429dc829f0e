"""Colours given luma: integers without loss, true probabilities, photos coloured by the tool."""

import pytest
import torch
from conftest import randomise
from enumeration import all_integers

from cascade.config import load_config
from cascade.transforms import colour
from cascade.transforms.coding import coding
from cascade.transforms.dequantise import dequantise
from stages import InputError, MixtureSettings, srflow
from stages.integers.support import ChromaSupport

ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


def flow(bits, steps=0, levels=1, order="subbands", size=2):
    first = MixtureSettings(2, order=order, width=4)
    options = {"chroma": True, "first": first, "bits": bits, **ENCODER}
    return randomise(srflow((3, size, size), levels, steps, 4, **options), 0.5).eval()


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_every_colour_has_a_luma_and_chroma_of_its_own(bits):
    values = torch.arange(2**bits) if bits < 8 else torch.arange(0, 256, 5)
    image = torch.cartesian_prod(values, values, values).T[:, :, None].to(torch.uint8)
    luma, chroma = colour.split(image)
    assert luma.shape[0] == 1 and luma.max() <= 2**bits - 1
    assert torch.equal(colour.join(luma, chroma, bits), image)
    assert len(torch.unique(torch.cat([luma, chroma]), dim=1).squeeze(2).T) == image.shape[1]
    red, green, blue = image.double()
    assert (luma[0] - (red + 2 * green + blue) / 4).abs().max() < 1


def test_chroma_that_no_colour_has_is_clipped_and_luma_stays():
    luma = torch.randint(0, 256, (1, 9, 9), dtype=torch.uint8)
    chroma = torch.randint(-600, 600, (2, 9, 9))
    image = colour.join(luma, chroma)
    assert torch.equal(colour.split(image)[0], luma)


def test_the_support_is_exactly_the_colours_of_a_luma():
    """By enumeration: for each luma, as many pairs within the bounds as colours."""
    bits = 3
    values = torch.arange(2**bits)
    image = torch.cartesian_prod(values, values, values).T[:, :, None].to(torch.uint8)
    luma, chroma = colour.split(image)
    support = ChromaSupport(bits)
    for y in range(2**bits):
        low = condition_of(torch.full((1, 1, 1, 1), y), bits)
        found = set()
        least, most = support.bounds([], low, low)
        for green in range(int(least), int(most) + 1):
            known = torch.full_like(low, green)
            least_orange, most_orange = support.bounds([known], low, low)
            found |= {(green, o) for o in range(int(least_orange), int(most_orange) + 1)}
        assert found == {tuple(pair) for pair in chroma[:, luma[0] == y].T.tolist()}


def condition_of(luma, bits):
    return dequantise(luma, torch.full((), 0.5, dtype=torch.float64), bits)


@pytest.mark.parametrize("order", ["subbands", "halves", "together"])
@torch.no_grad()
def test_probabilities_of_the_colours_of_every_luma_sum_to_one(order):
    """One-bit images of 2×2 pixels: 4,096 images, 16 lumas."""
    bits, model = 1, flow(1, order=order)
    image = all_integers(0, 2, (3, 2, 2)).to(torch.uint8)
    luma, chroma = colour.split(image)
    y = dequantise(chroma + 1, torch.full((), 0.5, dtype=torch.float64), bits)
    nats = (
        model.log_prob(y, condition_of(luma, bits)) - y[0].numel() * bits * torch.tensor(2.0).log()
    )
    keys, places = torch.unique(luma.flatten(1), dim=0, return_inverse=True)
    total = torch.zeros(len(keys), dtype=torch.float64).index_add(0, places, nats.exp())
    assert len(keys) == 16 and torch.allclose(total, torch.ones(16, dtype=torch.float64))


@pytest.mark.parametrize(("levels", "steps"), [(1, 0), (2, 1)])
def test_real_chroma_comes_back_and_all_noise_makes_colours_of_the_luma(levels, steps):
    model = flow(8, steps, levels, size=4)
    coded = coding(load_config("colour/cifar10"))
    image = torch.randint(0, 256, (3, 3, 4, 4), dtype=torch.uint8)
    luma = colour.split(image)[0]
    low = condition_of(luma, 8)
    y = dequantise(coded.values(image), torch.rand(3, 2, 4, 4, dtype=torch.float64), 8)
    back = model.decode(model.noise_of(y, low), low)
    assert torch.allclose(back, y, atol=1e-6) and torch.equal(coded.image(back, luma)[0], image)
    drawn, clipped = coded.image(model.sample(3 * torch.randn(3, 2, 4, 4).double(), low), luma)
    assert clipped.sum() == 0 and torch.equal(colour.split(drawn)[0], luma)


def test_settings_that_cannot_work():
    for setting, message in (
        ("data.channels=1", "needs data.channels=3"),
        ("model.first=none", "needs model.first=mixture"),
        ("augment.previous=runs/a", "not for a colour"),
        ("model.residual=true", "needs model.residual=false"),
    ):
        with pytest.raises(InputError, match=message):
            load_config("colour/cifar10", [setting])
    for options in ({"details": True}, {"first": None}):
        settings = {"first": MixtureSettings(2, width=4), "chroma": True, **ENCODER} | options
        with pytest.raises(InputError, match="chroma is of integers"):
            srflow((3, 4, 4), 1, 1, 4, **settings)
