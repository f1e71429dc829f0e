"""What the likelihood means: probabilities that sum to 1, and figures put together correctly."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT, randomise
from enumeration import all_integers, cube_probabilities
from small_stages import report_of

from cascade.building import build
from cascade.config import load_config
from cascade.likelihood import class_columns, compose
from cascade.sample_checks import consistency
from cascade.stage import Stage
from cascade.transforms.coding import Pixels
from cascade.transforms.pyramid import halve
from stages import glow
from stages.actnorm import ActNormInv1x1

ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}


@torch.no_grad()
@pytest.mark.parametrize("squish_range", ["sigmoid", "symmetric"])
def test_probabilities_of_all_integers_sum_to_one(squish_range, record_property):
    torch.manual_seed(1)
    flow = randomise(
        glow((1, 2, 2), levels=1, steps=2, width=4, squish=0.5, squish_range=squish_range), 0.1
    )
    for part in flow.modules():
        if isinstance(part, ActNormInv1x1):
            part.norm.log_scale.data += 0.9  # spread the mass over a few bins, not over dozens
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
        if isinstance(part, ActNormInv1x1):
            part.norm.log_scale.data += 1.2
    images = all_integers(-4, 6, (1, 2, 2))
    for y in range(2):
        label = torch.full((len(images),), y)
        assert cube_probabilities(flow, images, 1, 4, label=label).sum() == pytest.approx(
            1, abs=0.01
        )


def dequantised(images: torch.Tensor):
    return partial(Pixels(8).dequantise, images, 0, 0)


def test_dequantisation_constant_is_per_dimension():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    found = class_columns(lambda y: torch.zeros(len(y), 1), dequantised(images), 5, bits=8)
    expected = torch.full((2, 1), -3 * 4 * 4 * math.log(256), dtype=torch.float64)
    torch.testing.assert_close(found, expected)


def test_importance_samples_are_averaged_as_probabilities():
    calls = []

    def density(y):
        calls.append(float(len(calls)))
        return torch.full((len(y), 1), calls[-1])

    images = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    found = class_columns(density, dequantised(images), samples=3, bits=8).item()
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
    report = report_of(nats, [4, 12])
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
    config = load_config(ROOT / "configs" / "mnist5k" / "srf16.yaml", ["model.width=4"])
    above = Stage("srf16", config, build(config))
    stages = [above, above]  # of the lowest, nothing is asked
    assert consistency([low, high], stages) == [{"mean": 0.0, "worst": 0.0, "exact": 1.0}]
    off = low.clone().int()
    off[0, 0, 0, 0] += 5 if off[0, 0, 0, 0] < 128 else -5
    found = consistency([off.to(torch.uint8), high], stages)[0]
    assert found["worst"] == 5 and found["mean"] == pytest.approx(5 / 48)
    assert found["exact"] == pytest.approx(47 / 48)


def test_prior_of_the_classes():
    torch.manual_seed(0)
    columns = [torch.randn(5, 3).double()]
    weights = torch.tensor([0.2, 0.0, 0.8])
    nats, posterior = compose(columns, None, weights)
    expected = (columns[0].exp() * weights.double()).sum(1).log()
    torch.testing.assert_close(nats[:, 0], expected, rtol=1e-6, atol=1e-6)
    assert (posterior[:, 1] == -math.inf).all()
