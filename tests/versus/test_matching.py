"""What is made equal (`versus.matching`): what a flow and a generator see, and what they cost."""

from dataclasses import replace

import pytest
import torch
from conftest import ROOT, randomise

from cascade.benchmark.measure import flops
from cascade.building import build
from cascade.config import load_config
from cascade.versus.matching import TOLERANCE, check, match, receptive_field
from cascade.versus.nets import Discriminator, Generator, Shape, even_split
from stages import InputError

PHOTOS = ROOT / "configs" / "photos" / "srf2x.yaml"
SMALL = ("data.size=16", "model.steps=1", "model.width=12", "model.encoder=residual")
FLOWS = {
    "one level": ("model.levels=1", "model.conditional_prior=false", "model.encoder_blocks=1"),
    "two levels": ("model.levels=2", "model.encoder_blocks=2"),
    "without injectors": ("model.levels=1", "model.injector=false", "model.residual=false"),
}


@pytest.mark.parametrize("changes", FLOWS.values(), ids=FLOWS)
def test_a_match_sees_as_far_and_costs_as_much_as_the_flow(changes):
    config = load_config(PHOTOS, [*SMALL, *changes])
    found = match(config)
    assert found.field == found.net_field == found.shape.field
    assert abs(found.excess) <= TOLERANCE
    net = Generator(3, found.shape, config.model.residual)
    low = torch.zeros(1, 3, 8, 8)
    assert found.net_flops * 16**2 == flops(lambda: net(low))
    assert found.net_weights == sum(p.numel() for p in net.parameters())
    with torch.no_grad():
        flow = build(config).eval()
        assert found.flops * 16**2 == flops(lambda: flow.sample(torch.zeros(1, 3, 16, 16), low))
    assert min(found.shape.hidden) >= max(found.shape.hidden) - 1


SHAPES = [
    Shape(6, (5,), closing=False, fine=False),
    Shape(6, (5, 4), closing=True, fine=False),
    Shape(6, (5, 5), closing=False, fine=True),
    Shape(6, (5, 4, 4), closing=True, fine=True),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_generator_sees_what_its_shape_says_and_no_more(shape):
    """Measured twice: by gradients, and by what a changed low pixel changes."""
    net = randomise(Generator(2, shape))
    assert receptive_field(net, 2, 2) == shape.field
    low = torch.rand(8, 2, 4, 64, dtype=torch.float64)
    moved = low.clone()
    moved[..., 32] += 1
    changed = (net(moved) != net(low)).flatten(0, 2).any(0).nonzero().flatten()
    reach = shape.field // 2
    assert {32 - i // 2 for i in changed.tolist()} == set(range(-reach, reach + 1))


def test_a_fresh_generator_interpolates():
    low = torch.rand(2, 1, 8, 8) - 0.5
    net = Generator(1, SHAPES[3])
    flat = torch.full((1, 1, 8, 8), 0.25)
    assert net(low).shape == (2, 1, 16, 16)
    torch.testing.assert_close(net(flat), torch.full((1, 1, 16, 16), 0.25))
    assert not Generator(1, SHAPES[3], residual=False)(low).any()


def test_a_discriminator_takes_any_size():
    net = Discriminator(1, 4)
    assert net(torch.rand(3, 1, 16, 16)).shape == (3, 16)
    assert net(torch.rand(3, 1, 32, 24)).shape == (3, 48)


def test_numbers_are_split_evenly():
    for total in range(3, 40):
        parts = even_split(total, 3)
        assert sum(parts) == total and max(parts) - min(parts) <= 1


def test_what_is_not_equal_is_refused():
    config = load_config(PHOTOS, [*SMALL, *FLOWS["one level"]])
    found = match(config)
    check(found, "it")
    with pytest.raises(InputError, match="the flow sees 11 low pixels, the generator 13"):
        check(replace(found, net_field=13), "it")
    with pytest.raises(InputError, match=r"takes \+10% operations"):
        check(replace(found, net_flops=1.1 * found.flops), "it")
    thin = ("model.width=1", "model.encoder_features=1", "data.channels=1", "model.injector=false")
    small = [*SMALL, *FLOWS["one level"], *thin, "model.residual=false"]
    with pytest.raises(InputError, match="the flow sees . low pixels across: too few to match"):
        match(load_config(PHOTOS, small))
    with pytest.raises(InputError, match="operations beside the flow: raise model.width"):
        match(load_config(PHOTOS, [*small, "model.steps=3", "model.encoder_blocks=3"]))
