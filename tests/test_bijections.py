"""Every bijection: the inverse inverts, and log_det is autograd's, in float64 on random weights."""

import pytest
import torch
from conftest import randomise
from torch.autograd.functional import jacobian

from stages.bijection import Chain, Conditioned, OnHalf, Squeezed, peel, unpeel
from stages.coupling import Coupling, Injector, SplitPrior
from stages.glow import glow
from stages.linear import ActNorm, InvertibleConv, LUConv
from stages.norm import ChannelAffine, initialise
from stages.scale import LOG_SIGMA, scale_law, whitening
from stages.srflow import srflow

PLAIN, SQUISHED = scale_law(0.0), scale_law(0.5)
SYMMETRIC = scale_law(0.5, "symmetric")
SMALL = {"levels": 2, "steps": 2, "width": 8}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 2}
FEATURES, SIDE = 5, 4


def level(channels: int) -> Conditioned:
    parts = [
        ActNorm(channels),
        InvertibleConv(channels),
        Injector(channels, 8, SQUISHED),
        Coupling(channels, 8, SQUISHED, conditional=True),
        SplitPrior(channels, 8, conditional=True),
    ]
    return Conditioned(parts, FEATURES)


# name: (constructor, channels it takes, channels of the condition a level or 0)
BIJECTIONS = {
    "actnorm": (lambda c: ActNorm(c), 3, 0),
    "conv": (lambda c: InvertibleConv(c), 3, 0),
    "conv as LU": (lambda c: LUConv(c), 4, 0),
    "coupling plain": (lambda c: Coupling(c, 8, PLAIN), 4, 0),
    "coupling squished": (lambda c: Coupling(c, 8, SQUISHED), 4, 0),
    "coupling symmetric": (lambda c: Coupling(c, 8, SYMMETRIC), 4, 0),
    "coupling additive": (lambda c: Coupling(c, 8), 4, 0),
    "coupling of 3 channels": (lambda c: Coupling(c, 8, PLAIN), 3, 0),
    "coupling of 9 channels": (lambda c: Coupling(c, 8, SQUISHED), 9, 0),
    "coupling conditional": (lambda c: Coupling(c, 8, SQUISHED, conditional=True), 4, 8),
    "prior": (lambda c: SplitPrior(c, 8), 4, 0),
    "prior conditional": (lambda c: SplitPrior(c, 8, conditional=True), 4, 8),
    "injector": (lambda c: Injector(c, 8, SQUISHED), 3, 8),
    "injector symmetric": (lambda c: Injector(c, 8, SYMMETRIC), 3, 8),
    "chain": (lambda c: Chain(ActNorm(c), InvertibleConv(c), Coupling(c, 8, PLAIN)), 4, 0),
    "squeezed": (lambda c: Squeezed(Chain(ActNorm(4 * c), Coupling(4 * c, 8, PLAIN))), 1, 0),
    "on half": (lambda c: OnHalf(Chain(ActNorm(c // 2), InvertibleConv(c // 2))), 5, 0),
    "level": (level, 4, FEATURES),
    "two levels": (lambda c: Chain(level(c), OnHalf(Squeezed(level(2 * c)))), 4, FEATURES),
    "glow body, 1 channel": (lambda c: glow((c, SIDE, SIDE), **SMALL).body, 1, 0),
    "glow body, 3 channels": (lambda c: glow((c, SIDE, SIDE), **SMALL).body, 3, 0),
}


def inputs(name: str):
    make, channels, condition = BIJECTIONS[name]
    module = randomise(make(channels))
    x = torch.randn(3, channels, SIDE, SIDE, dtype=torch.float64)
    fine = torch.randn(3, condition, SIDE, SIDE, dtype=torch.float64)
    return module, x, ((fine, fine[:, :, ::2, ::2]) if condition else ())


@pytest.mark.parametrize("name", BIJECTIONS)
def test_inverse_inverts(name):
    module, x, cond = inputs(name)
    z, log_det = module(x, cond)
    back, inverse_log_det = module.inverse(z, cond)
    assert z.shape == x.shape and log_det.shape == (3,)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-9)
    assert not torch.allclose(z, x)


@pytest.mark.parametrize("name", BIJECTIONS)
def test_log_det_is_that_of_the_jacobian(name):
    module, x, cond = inputs(name)
    one_cond = tuple(c[:1] for c in cond)
    matrix = jacobian(lambda v: module(v[None], one_cond)[0][0], x[0])
    expected = torch.linalg.slogdet(matrix.reshape(x[0].numel(), -1)).logabsdet
    torch.testing.assert_close(module(x, cond)[1][0], expected, rtol=0, atol=1e-8)


FLOWS = {
    "glow grey": (lambda: glow((1, 8, 8), **SMALL), None),
    "glow colour, classes": (lambda: glow((3, 8, 8), **SMALL, classes=3, squish=0.5), None),
    "glow symmetric": (
        lambda: glow((1, 8, 8), **SMALL, squish=0.5, squish_range="symmetric"),
        None,
    ),
    "glow additive": (lambda: glow((1, 8, 8), **SMALL, coupling="additive"), None),
    "srflow grey": (lambda: srflow((1, 8, 8), **SMALL, **ENCODER), 1),
    "srflow colour, classes": (lambda: srflow((3, 8, 8), **SMALL, **ENCODER, classes=3), 3),
    "srflow residual": (
        lambda: srflow((1, 8, 8), **SMALL, **ENCODER, residual=True, conditional_prior=True),
        1,
    ),
    "srflow details": (lambda: srflow((1, 8, 8), **SMALL, **ENCODER, details=True), 1),
    "srflow colour details, classes": (
        lambda: srflow((3, 8, 8), **SMALL, **ENCODER, details=True, classes=3),
        3,
    ),
    "srflow ablated": (
        lambda: srflow(
            (1, 8, 8), **SMALL, **ENCODER, injector=False, transition_steps=0, coupling="additive"
        ),
        1,
    ),
}


def flow_inputs(name: str):
    make, low_channels = FLOWS[name]
    flow = randomise(make(), scale=0.1)
    x = torch.rand(3, *flow.shape, dtype=torch.float64) - 0.5
    low = None if low_channels is None else torch.rand(3, low_channels, 4, 4).double() - 0.5
    return flow, x, low, torch.tensor([0, 1, 2])


@pytest.mark.parametrize("name", FLOWS)
def test_flow_round_trip_and_jacobian(name):
    flow, x, low, label = flow_inputs(name)
    z, log_det = flow.encode(x, low, label)
    torch.testing.assert_close(flow.decode(z, low, label), x, rtol=0, atol=1e-9)
    one_low = None if low is None else low[1:2]
    matrix = jacobian(lambda v: flow.encode(v[None], one_low, label[1:2])[0][0], x[1])
    expected = torch.linalg.slogdet(matrix.reshape(x[1].numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[1], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("name", FLOWS)
def test_log_prob_is_the_normal_density_times_the_jacobian(name):
    flow, x, low, label = flow_inputs(name)
    z, log_det = flow.encode(x, low, label)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(z).flatten(1).sum(1)
    torch.testing.assert_close(flow.log_prob(x, low, label), normal + log_det, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", FLOWS)
def test_class_log_probs_hold_every_label(name):
    flow, x, low, _ = flow_inputs(name)
    columns = flow.class_log_probs(x, low)
    assert columns.shape == (3, flow.classes or 1)
    for y in range(columns.shape[1]):
        expected = flow.log_prob(x, low, torch.full((3,), y))
        torch.testing.assert_close(columns[:, y], expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("law", [SQUISHED, SYMMETRIC])
def test_squish_bounds_the_scale(law):
    scale = law(torch.linspace(-100, 100, 999, dtype=torch.float64))
    assert scale.min() >= 0.5 - 1e-12 and scale.max() <= 2 + 1e-12


def test_squish_reaches_the_injector():
    flow = srflow((1, 8, 8), **SMALL, **ENCODER, squish=0.75)
    injectors = [m for m in flow.modules() if isinstance(m, Injector)]
    assert len(injectors) == 4
    for part in injectors:
        assert part.law(torch.tensor(-100.0)) == pytest.approx(0.75)


def test_whitening_is_soft_and_bounded():
    raw = torch.linspace(-50, 50, 999, dtype=torch.float64)
    log_sigma = -whitening(raw).log()
    assert LOG_SIGMA[0] - 1e-4 < log_sigma.min() and log_sigma.max() <= LOG_SIGMA[1]
    middle = raw.abs() < 0.5
    assert (log_sigma - raw)[middle].abs().max() < 0.3
    assert (log_sigma.diff() >= 0).all()


def test_peel_and_unpeel():
    z = torch.randn(2, 3, 8, 8)
    top, rest = peel(z, 3)
    assert top.shape == (2, 48, 1, 1) and len(rest) == 2
    assert torch.equal(unpeel(top, rest), z)
    top, rest = peel(z, 3, squeezed=False)
    assert top.shape == (2, 8, 2, 2) and [r.shape[1] for r in rest] == [2, 2]
    assert torch.equal(unpeel(top, rest, squeezed=False), z)


def test_initialise_fits_every_norm_once_and_only_when_asked():
    flow = srflow((3, 8, 8), **SMALL, **ENCODER)
    x, low = torch.rand(64, 3, 8, 8) - 0.5, torch.rand(64, 3, 4, 4) - 0.5
    flow.encode(x, low)
    layers = [m for m in flow.modules() if isinstance(m, ChannelAffine)]
    assert not any(layer.fitted for layer in layers)
    outputs = []
    initialise(flow.body, x, flow.encoder(low))
    assert all(layer.fitted for layer in layers)
    hooks = [m.register_forward_hook(lambda *a: outputs.append(a[2])) for m in layers]
    flow.encode(x, low)
    for y in outputs:
        assert y.mean((0, 2, 3)).abs().max() < 1e-3
        assert (y.std((0, 2, 3), correction=0) - 1).abs().max() < 2e-2
    for hook in hooks:
        hook.remove()
    before = [layer.bias.clone() for layer in layers]
    initialise(flow.body, x + 1, flow.encoder(low))
    assert all(torch.equal(b, layer.bias) for b, layer in zip(before, layers, strict=True))


@pytest.mark.parametrize("make", [glow, srflow])
def test_sizes_that_do_not_fit_are_named(make):
    with pytest.raises(ValueError, match=r"divisible by 16 \(16, 32, 48, ...\), got 24x24"):
        make((3, 24, 24), levels=4)


def test_algebra_stays_in_float32_under_autocast():
    flow = glow((1, 8, 8), **SMALL)
    x = torch.rand(2, 1, 8, 8) - 0.5
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = flow.encode(x)
    assert z.dtype == log_det.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        back = flow.decode(z)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)


def test_lu_starts_as_the_rotation_and_keeps_its_form():
    torch.manual_seed(0)
    dense = InvertibleConv(6).double()
    torch.manual_seed(0)
    lu = LUConv(6).double()
    torch.testing.assert_close(lu.matrix()[0], dense.weight, rtol=0, atol=1e-6)
    assert abs(lu.matrix()[1]) < 1e-5
    randomise(lu, scale=1.0)
    weight, log_det = lu.matrix()
    torch.testing.assert_close(log_det, torch.linalg.slogdet(weight).logabsdet)
    unpivoted = lu.permutation.T @ weight
    torch.testing.assert_close(unpivoted[0], lu.upper.triu(1)[0] + torch.diag(
        lu.sign * lu.log_size.exp())[0])  # fmt: skip
