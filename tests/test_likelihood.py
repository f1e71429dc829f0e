"""What the likelihood means: probabilities that sum to 1, and figures put together correctly."""

import math

import numpy as np
import pytest
import torch
from conftest import randomise

from cascade.chain import Cascade
from cascade.config import Data, GlowModel, SRFlowModel, StageConfig, Train
from cascade.dequantise import dequantise, log_volume, reduce_bits
from cascade.likelihood import Report, class_columns, compose, consistency
from cascade.pyramid import halve
from cascade.stage import Stage
from stages import Flow, glow, srflow
from stages.linear import ActNorm

ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


def all_integers(low: int, high: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Every integer image with values in low..high−1, (count, *shape)."""
    places = math.prod(shape)
    return torch.cartesian_prod(*[torch.arange(low, high)] * places).reshape(-1, *shape)


def cube_probabilities(flow, images: torch.Tensor, bits: int, nodes: int, low=None, label=None):
    """∫ p(y) dy over each image's dequantisation cube, by Gauss-Legendre quadrature."""
    points, weights = np.polynomial.legendre.leggauss(nodes)
    dims = images[0].numel()
    grid = torch.cartesian_prod(*[torch.tensor((points + 1) / 2)] * dims).reshape(-1, dims)
    weight = torch.cartesian_prod(*[torch.tensor(weights / 2)] * dims).reshape(-1, dims).prod(1)
    total = torch.zeros(len(images), dtype=torch.float64)
    for u, w in zip(grid, weight, strict=True):
        y = dequantise(images, u.reshape(images.shape[1:]).expand(images.shape), bits)
        total += w * flow.log_prob(y, low, label).exp()
    return total / math.exp(log_volume(dims, bits))


@torch.no_grad()
@pytest.mark.parametrize("squish_range", ["sigmoid", "symmetric"])
def test_probabilities_of_all_integers_sum_to_one(squish_range, record_property):
    flow = randomise(
        glow((1, 2, 2), levels=1, steps=2, width=4, squish=0.5, squish_range=squish_range), 0.1
    )
    for part in flow.modules():
        if isinstance(part, ActNorm):
            part.affine.log_scale.data += 0.9  # spread the mass over a few bins, not over dozens
    bits = 1
    images = all_integers(-4, 6, (1, 2, 2))
    mass = cube_probabilities(flow, images, bits, nodes=4)
    valid = ((images >= 0) & (images < 2**bits)).flatten(1).all(1)
    share = mass[valid].sum().item()
    record_property("share of mass on values that no image takes", 1 - share)
    print(f"share of mass on values that no image takes: {1 - share:.3f}")
    assert mass.sum().item() == pytest.approx(1, abs=0.01)
    assert 0.05 < share < 0.95


@torch.no_grad()
def test_class_conditional_probabilities_sum_to_one():
    flow = randomise(glow((1, 2, 2), levels=1, steps=1, width=4, classes=2), 0.1)
    for part in flow.modules():
        if isinstance(part, ActNorm):
            part.affine.log_scale.data += 1.2
    images = all_integers(-4, 6, (1, 2, 2))
    for y in range(2):
        label = torch.full((len(images),), y)
        assert cube_probabilities(flow, images, 1, 4, label=label).sum() == pytest.approx(
            1, abs=0.01
        )


def tiny_cascade() -> Cascade:
    """1×1 → 2×2, one channel, two bits: every image can be listed."""
    data = {"name": "none", "channels": 1, "bits": 2}
    train = Train(steps=0, batch_size=1, lr=0.0)
    base = randomise(Flow(ActNorm(1), (1, 1, 1), 0))
    base.body.affine.log_scale.data.fill_(1.2)
    base.body.affine.bias.data.fill_(0.1)
    top = randomise(srflow((1, 2, 2), levels=1, steps=1, width=4, residual=True, **ENCODER), 0.1)
    for part in top.modules():
        if isinstance(part, ActNorm):
            part.affine.log_scale.data += 0.35
    configs = [
        StageConfig("base", 0, Data(size=1, **data), GlowModel("glow"), train),
        StageConfig("top", 0, Data(size=2, **data), SRFlowModel("srflow"), train),
    ]
    return Cascade(
        [Stage(c.out, c, flow.eval()) for c, flow in zip(configs, (base, top), strict=True)]
    )


@torch.no_grad()
def test_composed_probabilities_sum_to_the_share_of_consistent_samples():
    """Σ_x P_0(D x)·P_1(x | D x) over all valid x: below 1, and what sampling says it is."""
    cascade, bits = tiny_cascade(), 2
    images = all_integers(0, 4, (1, 2, 2)).to(torch.uint8)
    low = halve(images, bits)
    base, top = (stage.flow for stage in cascade.stages)
    values = all_integers(0, 4, (1, 1, 1))
    p_base = cube_probabilities(base, values, bits, 8)[low.flatten().long()]
    condition = dequantise(low, torch.full(low.shape, 0.5, dtype=torch.float64), bits)
    p_top = cube_probabilities(top, images, bits, 5, low=condition)
    total = (p_base * p_top).sum().item()
    assert 0.01 < total <= 1

    torch.manual_seed(0)
    count = 40_000
    drawn_low = torch.floor((base.sample(torch.randn(count, 1, 1, 1).double()) + 0.5) * 4)
    ok = ((drawn_low >= 0) & (drawn_low < 4)).flatten(1).all(1)
    low = drawn_low.clamp(0, 3).to(torch.uint8)
    condition = dequantise(low, torch.full(low.shape, 0.5, dtype=torch.float64), bits)
    drawn = torch.floor((top.sample(torch.randn(count, 1, 2, 2).double(), condition) + 0.5) * 4)
    ok &= ((drawn >= 0) & (drawn < 4)).flatten(1).all(1)
    high = drawn.clamp(0, 3).to(torch.uint8)
    ok &= (halve(high, bits) == low).flatten(1).all(1)
    share = ok.double().mean().item()
    assert total == pytest.approx(share, abs=4 * math.sqrt(share / count) + 0.002)


@torch.no_grad()
def test_composed_log_prob_tends_to_the_quadrature():
    """With many importance samples the tool's own figure reaches the exact probability."""
    cascade, bits = tiny_cascade(), 2
    images = all_integers(0, 4, (1, 2, 2))[::37].to(torch.uint8)
    low = halve(images, bits)
    base, top = (stage.flow for stage in cascade.stages)
    condition = dequantise(low, torch.full(low.shape, 0.5, dtype=torch.float64), bits)
    exact = cube_probabilities(base, low, bits, 8).log()
    exact = exact + cube_probabilities(top, images, bits, 5, low=condition).log()
    shown = (images.int() * 255 // 3).to(torch.uint8)
    assert torch.equal(reduce_bits(shown, bits), images)
    one = cascade.score(shown, samples=1)[0].sum(1)
    many = cascade.score(shown, samples=256)[0].sum(1)
    torch.testing.assert_close(many, exact, rtol=0, atol=0.05)
    assert (many - exact).abs().mean() < (one - exact).abs().mean()


def test_dequantisation_constant_is_per_dimension():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    found = class_columns(lambda y: torch.zeros(len(y), 1), images, 0, 0, samples=5, bits=8)
    expected = torch.full((2, 1), -3 * 4 * 4 * math.log(256), dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_importance_samples_are_averaged_as_probabilities():
    calls = []

    def density(y):
        calls.append(float(len(calls)))
        return torch.full((len(y), 1), calls[-1])

    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    found = class_columns(density, images, 0, 0, samples=3, bits=8).item()
    expected = math.log((1 + math.e + math.e**2) / 3) - math.log(256)
    assert found == pytest.approx(expected)


def test_marginal_shares_sum_and_are_never_below_the_given_label():
    torch.manual_seed(0)
    columns = [torch.randn(6, 1), torch.randn(6, 4) * 3, torch.randn(6, 4) * 3]
    columns = [c.double() for c in columns]
    nats, posterior = compose(columns, None)
    joint = sum(columns) - math.log(4)
    torch.testing.assert_close(nats.sum(1), joint.logsumexp(1))
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(6).double())
    torch.testing.assert_close(nats[:, 0], columns[0][:, 0])
    for y in range(4):
        given, none = compose(columns, torch.full((6,), y))
        assert none is None
        assert (nats.sum(1) >= given.sum(1) - math.log(4)).all()


def test_report_adds_nats_and_divides_once():
    nats = torch.tensor([[-10.0, -100.0], [-20.0, -300.0]]).double()
    report = Report(["a", "b"], [(1, 2, 2), (1, 4, 4)], nats, None, [])
    image_bpd = [110 / (16 * math.log(2)), 320 / (16 * math.log(2))]
    assert report.bpd == pytest.approx(sum(image_bpd) / 2)
    assert report.stderr == pytest.approx(np.std(image_bpd, ddof=1) / math.sqrt(2))
    first, second = report.stages
    assert first["bpd"] == pytest.approx(15 / (4 * math.log(2)))
    assert first["share"] == pytest.approx(15 / (16 * math.log(2)))
    assert first["share"] + second["share"] == pytest.approx(report.bpd)


def test_consistency_counts_grey_levels():
    high = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    low = halve(high)
    assert consistency([low, high]) == [{"mean": 0.0, "worst": 0.0, "exact": 1.0}]
    off = low.clone().int()
    off[0, 0, 0, 0] += 5 if off[0, 0, 0, 0] < 128 else -5
    found = consistency([off.to(torch.uint8), high])[0]
    assert found["worst"] == 5 and found["mean"] == pytest.approx(5 / 48)
    assert found["exact"] == pytest.approx(47 / 48)
