"""Integers to noise through a mixture of logistics: exact support, exact probabilities."""

import math

import pytest
import torch
from conftest import randomise
from enumeration import all_integers, condition, cube_probabilities
from torch.autograd.functional import jacobian

from cascade.transforms import haar
from cascade.transforms.dequantise import centre, dequantise
from cascade.transforms.pyramid import halve
from stages import InputError, LogisticMixture, MixtureSettings, glow, srflow
from stages.actnorm import ActNormInv1x1
from stages.flow import without_priors
from stages.integers.bins import Bins, Components
from stages.integers.support import DetailSupport, PixelSupport

BITS = 3
MIDDLE = 2 ** (BITS - 1)
SMALL = {"width": 8, "bits": BITS}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}
APART = MixtureSettings(3, "linear", "subbands", width=8)
HALVES = MixtureSettings(2, "linear", "halves", width=4, blocks=1, chain=True)
TOGETHER = MixtureSettings(2, "none", "together", width=4, blocks=0)
FLOWS = {  # colours, whether of details, the flow
    "details alone": (
        3, True, lambda: srflow((3, 4, 4), 1, 0, **SMALL, **ENCODER, details=True, first=APART)
    ),
    "details, steps, classes": (
        1, True, lambda: srflow(
            (1, 4, 4), 2, 1, **SMALL, **ENCODER, details=True, first=TOGETHER, classes=3
        ),
    ),
    "pixels, steps": (
        3, False, lambda: srflow((3, 4, 4), 1, 1, **SMALL, **ENCODER, first=APART)
    ),
    "pixels alone, classes": (
        1, False, lambda: srflow((1, 4, 4), 1, 0, **SMALL, **ENCODER, first=APART, classes=3)
    ),
    "pixels, steps, dequantised": (
        1, False, lambda: srflow(
            (1, 4, 4), 1, 1, **SMALL, **ENCODER, first=TOGETHER, dequantise="variational"
        ),
    ),
    "glow, steps, classes": (
        3, False, lambda: glow((3, 4, 4), 2, 1, **SMALL, first=APART, classes=3)
    ),
    "halves of details": (
        3, True, lambda: srflow((3, 8, 8), 1, 1, **SMALL, **ENCODER, details=True, first=HALVES),
    ),
    "glow alone": (1, False, lambda: glow((1, 4, 4), 1, 0, **SMALL, first=APART)),
}  # fmt: skip


def flow_inputs(name: str, bits: int = BITS):
    """A randomised flow, and values y, low images and labels of three images."""
    colours, details, make = FLOWS[name]
    flow = randomise(make(), 0.2).eval()
    torch.manual_seed(1)
    image = torch.randint(0, 2**bits, (3, colours, 4, 4))
    values = haar.split(image, rows=True)[1] + 2 ** (bits - 1) if details else image
    low = condition_of(haar.halve(image), bits) if flow.encoder else None
    y = dequantise(values, torch.rand(values.shape, dtype=torch.float64), bits)
    return flow, y, low, torch.tensor([0, 1, 2])


def condition_of(low, bits=BITS):
    return centre(low, torch.float64, bits)


@pytest.mark.parametrize("name", FLOWS)
def test_round_trip_and_jacobian(name):
    flow, y, low, label = flow_inputs(name)
    z, log_det = flow.encode(y, low, label)
    torch.testing.assert_close(flow.decode(z, low, label), y, rtol=0, atol=1e-7)
    one_low = None if low is None else low[1:2]
    matrix = jacobian(lambda v: flow.encode(v[None], one_low, label[1:2])[0][0], y[1])
    expected = torch.linalg.slogdet(matrix.reshape(y[1].numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[1], expected, rtol=0, atol=1e-6)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(y, low, label), normal + log_det, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FLOWS)
def test_class_log_probs_hold_every_label(name):
    flow, y, low, _ = flow_inputs(name)
    columns = flow.class_log_probs(y, low)
    assert columns.shape == (3, flow.classes or 1)
    for label in range(columns.shape[1]):
        expected = flow.log_prob(y, low, torch.full((3,), label))
        torch.testing.assert_close(columns[:, label], expected, rtol=0, atol=1e-9)
    if flow.classes:
        assert (columns[:, 0] - columns[:, 1]).abs().min() > 1e-6
        with pytest.raises(InputError, match="give labels"):
            flow.log_prob(y, low)
        assert flow.score(y, low, torch.zeros(3, dtype=torch.long))[1] is None  # no read-out


@pytest.mark.parametrize("name", FLOWS)
def test_only_steps_after_it_see_where_in_its_bin_a_value_lies(name):
    flow, y, low, label = flow_inputs(name)
    values = torch.floor(y * 2**BITS)
    one, two = (flow.log_prob((values + u) / 2**BITS, low, label) for u in (0.01, 0.9))
    assert flow.exact == name.startswith(("details alone", "pixels alone", "glow alone"))
    assert torch.allclose(one, two, rtol=0, atol=1e-12) == flow.exact


@pytest.mark.parametrize("name", FLOWS)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_all_noise_makes_values_that_images_have(name, scale):
    flow, y, low, label = flow_inputs(name)
    noise = scale * torch.randn_like(y)
    values = torch.floor(flow.decode(noise, low, label) * 2**BITS) + MIDDLE
    if FLOWS[name][1]:
        small = torch.floor((low + 0.5) * 2**BITS).int()
        image = haar.join(small, values.int() - MIDDLE, BITS, rows=True)
        values = values - MIDDLE
        assert torch.equal(haar.split(image, rows=True)[1].double(), values)
    else:
        assert values.min() >= 0 and values.max() <= 2**BITS - 1
    noise[0, 0, 0, 0] = math.nan
    assert flow.decode(noise, low, label)[0].isnan().any()


@pytest.mark.parametrize("order", [APART, HALVES, TOGETHER])
@pytest.mark.parametrize("kind", ["details", "pixels", "glow"])
@torch.no_grad()
def test_probabilities_of_images_sum_to_one(kind, order):
    """Of all 256 two-bit images of 2×2, given each low image, and of no integers beside them."""
    images = all_integers(0, 4, (1, 2, 2))
    options = {"width": 4, "bits": 2, "first": order}
    if kind == "glow":
        flow = randomise(glow((1, 2, 2), 1, 0, **options))
        total = flow.log_prob(condition(images)).exp().sum() / 4**4
        assert total == pytest.approx(1, abs=1e-9)
        return
    details = kind == "details"
    flow = randomise(srflow((1, 2, 2), 1, 0, **options, **ENCODER, details=details))
    values = haar.split(images, rows=True)[1] + 2 if details else images
    for low in range(4):
        given = values[haar.halve(images).flatten() == low] if details else values
        below = condition(torch.full((len(given), 1, 1, 1), low))
        nats = flow.log_prob(condition(given), below) - given[0].numel() * math.log(4)
        assert nats.exp().sum() == pytest.approx(1, abs=1e-9)


@torch.no_grad()
def test_probabilities_sum_to_one_where_half_a_group_is_given_the_other_half():
    """Of all 256 one-bit images of 4x2, whose groups are of two places each."""
    images = all_integers(0, 2, (1, 4, 2))
    flow = randomise(glow((1, 4, 2), 1, 0, width=4, bits=1, first=HALVES))
    nats = flow.log_prob(centre(images, torch.float64, 1)) - 8 * math.log(2)
    assert nats.exp().sum() == pytest.approx(1, abs=1e-9)
    other = images.clone()
    other[:, :, 0, 0] ^= 1  # the first place of the first group: black ones read it
    change = flow.log_prob(centre(other, torch.float64, 1)) - flow.log_prob(
        centre(images, torch.float64, 1)
    )
    assert change.abs().max() > 1e-3


@torch.no_grad()
def test_probabilities_of_images_sum_to_one_with_steps_after_it():
    """What bins hold once u is integrated out; nothing is left for other integers."""
    flow = srflow((1, 2, 2), 1, 1, 4, **ENCODER, details=True, first=APART, bits=2)
    flow = randomise(flow, 0.1)
    for part in flow.modules():
        if isinstance(part, ActNormInv1x1):
            part.norm.log_scale.data += 0.1  # narrow in z, so that quadrature meets no singularity
    images = all_integers(0, 4, (1, 2, 2))
    given = (haar.split(images, rows=True)[1] + 2)[haar.halve(images).flatten() == 1]
    below = condition(torch.full((len(given), 1, 1, 1), 1))
    total = cube_probabilities(flow, given, 2, 8, below).sum()
    assert total == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_bounds_of_details_are_those_of_images(bits):
    """Each value's range holds what some pair of pixels gives, and nothing else."""
    pixels = torch.arange(2**bits)
    a, b = torch.meshgrid(pixels, pixels, indexing="ij")
    low, high = ((a + b) >> 1).flatten(), (a - b).flatten()
    support = DetailSupport(bits)
    for mean in range(2**bits):
        given = condition_of(torch.full((1, 1, 1, 1), mean), bits)
        least, greatest = support.bounds([], given, given)
        assert (least.item(), greatest.item()) == (high[low == mean].min(), high[low == mean].max())
        assert len(high[low == mean].unique()) == greatest.item() - least.item() + 1


@pytest.mark.parametrize("order", [APART, HALVES])
@torch.no_grad()
def test_values_beyond_the_bounds_count_as_the_nearest_within(order):
    """Whoever reads them: the groups that follow, and the other half of their own."""
    flow = randomise(srflow((1, 8, 8), 1, 0, 4, **ENCODER, details=True, first=order), 0.2).eval()
    torch.manual_seed(2)
    low = torch.randint(0, 256, (2, 1, 4, 4))
    beyond = torch.randint(-200, 200, (2, 3, 4, 4))
    within = haar.split(haar.join(low, beyond, 8, rows=True), rows=True)[1]
    assert not torch.equal(within, beyond)
    below = centre(low, torch.float64)
    one, two = (flow.log_prob((v + 0.5) / 256, below) for v in (beyond, within))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-8)


@pytest.mark.parametrize("support", [DetailSupport(8), PixelSupport(8, True)])
def test_groups_join_to_what_was_split(support):
    x = torch.randn(2, 3 * support.groups, 4, 4)
    groups = support.split(x)
    assert len(groups) == support.groups and groups[0].shape == (2, 3, 4, 4)
    assert torch.equal(support.join(groups), x)


def test_images_of_every_kind_come_back_in_float32():
    """Noise, black, white: also what a mixture finds unlikely."""
    torch.manual_seed(0)
    flow = srflow((3, 16, 16), 1, 0, 8, **ENCODER, details=True, first=MixtureSettings(width=8))
    flow = randomise(flow, 0.1).float()
    images = torch.stack([
        torch.randint(0, 256, (3, 16, 16)), torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255),
        torch.randint(0, 2, (3, 16, 16)) * 255,
    ]).long()  # fmt: skip
    values, low = haar.split(images, rows=True)[1], haar.halve(images)
    y = (values + 0.5) / 256
    below = centre(low)
    z, _ = flow.encode(y, below)
    assert z.isfinite().all() and z.abs().max() < 8
    assert torch.equal(torch.floor(flow.decode(z, below) * 256), values.float())


def test_the_mixture_stays_where_priors_are_left_out():
    flow, y, low, label = flow_inputs("details, steps, classes")
    bare = without_priors(flow)
    assert bare.mixture is not None and bare.classes == flow.classes
    torch.testing.assert_close(
        bare.decode(bare.noise_of(y, low, label), low, label), y, rtol=0, atol=1e-7
    )


def test_compiled_and_under_autocast():
    flow, y, low, label = flow_inputs("details alone")
    flow, y, low = flow.float(), y.float(), low.float()
    compiled = torch.compile(flow.log_prob, fullgraph=True, backend="eager")
    nats = flow.log_prob(y, low, label)
    torch.testing.assert_close(compiled(y, low, label), nats, rtol=1e-5, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = flow.log_prob(y, low, label)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, nats, rtol=0.05, atol=1)


def test_colours_start_out_together():
    """A fresh mixture expects a channel to deviate as the channel before it does."""
    mixture = LogisticMixture(PixelSupport(8, False), 2, 0, APART)
    torch.nn.init.zeros_(mixture.nets[0].last.weight)
    x = torch.zeros(1, 8, 1, 1)
    cond = mixture.condition(mixture.hidden(None, x), x, None, None)
    (bins, _), *_ = mixture._bins(torch.full((1, 8, 1, 1), 40.0), cond)
    shift = bins.components.location[0, 1] - bins.components.location[0, 0]
    torch.testing.assert_close(shift, torch.full_like(shift, 40.0))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"steps": 0}, "steps=0 leaves the mixture alone"),
        ({"steps": 0, "levels": 2, "first": APART}, "levels=1"),
        ({"residual": True, "first": APART}, "a mixture is of integers"),
    ],
)
def test_what_does_not_go_together(options, reason):
    with pytest.raises(InputError, match=reason):
        srflow((1, 8, 8), **{"levels": 1, "width": 8, **ENCODER, **options})


def test_halving_is_the_same_however_details_are_written():
    image = torch.randint(0, 256, (2, 3, 8, 8))
    low, details = haar.split(image, rows=True)
    assert torch.equal(low, halve(image, 8, "haar"))
    assert torch.equal(haar.join(low, details, 8, rows=True), image.to(torch.uint8))


def test_no_parameters_make_a_gradient_that_is_not_finite():
    """Logistics far wider than the range, far narrower than a bin, and far away."""
    torch.manual_seed(0)
    mixture = LogisticMixture(PixelSupport(8, False), 1, 0, MixtureSettings(3, width=4))
    x = torch.tensor([0.0, 1, 100, 255]).reshape(1, 4, 1, 1) / 256 - 0.5 + 1 / 512
    for size in (1.0, 100.0, 1e4):
        for net in mixture.nets:
            net.last.bias.data = size * torch.randn_like(net.last.bias)
        cond = mixture.condition(mixture.hidden(None, x), x, None, None)
        z, log_det = mixture(x, cond)
        (mixture.log_prob(x, cond) + log_det).sum().backward()
        assert z.isfinite().all() and log_det.isfinite().all()
        assert all(p.grad.isfinite().all() for p in mixture.parameters() if p.grad is not None)


def test_a_fresh_mixture_of_pixels_is_centred_on_the_low_image():
    flow = srflow((1, 4, 4), 1, 0, 8, **ENCODER, first=MixtureSettings(3, width=8))
    for net in flow.mixture.nets:
        torch.nn.init.zeros_(net.last.weight)
    low = centre(torch.full((3, 1, 2, 2), 100))
    values = torch.tensor([99, 100, 101])[:, None, None, None].expand(-1, 1, 4, 4)
    below, at, above = flow.log_prob(centre(values), low).tolist()
    assert at > below and below == pytest.approx(above, rel=1e-4)


@pytest.mark.parametrize(("least", "greatest"), [(0, 255), (-3, 3), (7, 7)])
def test_the_masses_of_all_integers_sum_to_one(least, greatest):
    torch.manual_seed(0)
    values = torch.arange(least, greatest + 1.0, dtype=torch.float64).reshape(1, -1, 1, 1)
    raw = 3 * torch.randn(3, 1, 1, 4, 1, 1, dtype=torch.float64)
    components = Components(raw[0].log_softmax(2), 20 * raw[1], raw[2])
    bins = Bins(components, *torch.tensor([least, greatest], dtype=torch.float64))
    assert bins.log_mass(values).exp().sum() == pytest.approx(1, abs=1e-12)
