"""Variational dequantisation: every bin is mapped into itself, and the bound stays a bound."""

import pytest
import torch
from conftest import ROOT, TINY, chdir, randomise
from enumeration import all_integers, cube_probabilities

from cascade import Cascade
from cascade.config import load_config
from cascade.data import open_images
from cascade.training.trainer import Trainer
from stages import Flow, InputError, StageLoss, glow, initialise, srflow
from stages.actnorm import ActNorm, ActNormInv1x1
from stages.bijection import Identity
from stages.integers.dequantise import MARGIN, Dequantiser, dequantiser

SMALL = {"levels": 2, "steps": 1, "width": 8, "dequantise": "variational"}
ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}
NOISE = 2.0**-15  # the least that training and scoring draw; the most is one minus it


def bins(y: torch.Tensor, bits: int) -> torch.Tensor:
    return (y * 2**bits).floor()


@pytest.mark.parametrize(("channels", "bits", "features"), [(4, 8, 0), (3, 5, 5), (9, 1, 5)])
def test_every_bin_is_mapped_into_itself(channels, bits, features):
    part = randomise(Dequantiser(channels, 8, bits, features=features), 0.5)
    y = 4 * torch.rand(3, channels, 4, 4, dtype=torch.float64) - 2
    cond = (torch.randn(3, features, 4, 4, dtype=torch.float64),) if features else ()
    for apply in (part, part.inverse):
        z, log_det = apply(y, cond)
        assert torch.equal(bins(z, bits), bins(y, bits))
        assert log_det.isfinite().all() and (z - y).abs().max() > 0.2 / 2**bits


def test_a_fresh_one_is_the_identity_up_to_the_margin():
    part = Dequantiser(4, 8, bits=8).double()
    y = torch.rand(3, 4, 4, 4, dtype=torch.float64) - 0.5
    z, log_det = part(y)
    assert (z - y).abs().max() <= 1.5 * MARGIN / 256
    assert log_det.abs().max() < 3 * MARGIN * y[0].numel()


@pytest.mark.parametrize("place", [0.0, NOISE, 0.5, 1 - NOISE])
def test_float32_never_rounds_out_of_a_bin(place):
    """Wherever in the bins of all details noise may lie, and however far a net would push it."""
    values = torch.arange(-512, 512.0).reshape(1, 4, 16, 16)
    y = (values + place) / 256
    for shift in (-100.0, 0.0, 100.0):
        part = Dequantiser(4, 8, bits=8, steps=2)
        for coupling in (part.steps.parts[0], part.steps.parts[2]):
            coupling.net.head.last.conv.bias.data.fill_(shift)
        for apply in (part, part.inverse):
            z, log_det = apply(y)
            assert torch.equal(bins(z, 8), values[0][None]) and log_det.isfinite().all()


def test_the_middle_of_a_bin_stays_off_its_ends():
    part = randomise(Dequantiser(4, 8, bits=8), 2.0)
    values = torch.randint(-128, 128, (64, 4, 4, 4)).double()
    u = part((values + 0.5) / 256)[0] * 256 - values
    assert 0.05 < u.min() < 0.2 and 0.8 < u.max() < 0.95


def test_what_is_not_finite_stays_so_and_alone():
    part = randomise(Dequantiser(4, 8, bits=8), 0.1).float()
    y = torch.zeros(1, 4, 4, 4)
    y[0, 0, 0, :3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    x, _ = part.inverse(y)
    assert x[0, 0, 0, 0].isnan() and torch.equal(x[0, 0, 0, 1:3], y[0, 0, 0, 1:3])
    assert x.isfinite().sum() == y.isfinite().sum()


@torch.no_grad()
def test_probabilities_of_all_integers_sum_to_one_but_for_the_margins():
    """Of a Gaussian, whose noise a random T moves: each bin has at most the mass it had."""
    bits, images = 2, all_integers(-30, 34, (2, 1, 1))
    body = randomise(ActNormInv1x1(2))
    body.norm.log_scale.data += 0.5
    plain = cube_probabilities(Flow(body, (2, 1, 1), 0), images, bits, nodes=20)
    part = randomise(Dequantiser(2, 4, bits, steps=2), 0.1)
    moved = cube_probabilities(Flow(body, (2, 1, 1), 0, dequantiser=part), images, bits, nodes=40)
    assert plain.sum() == pytest.approx(1, abs=1e-6)
    assert 1 - 10 * MARGIN < moved.sum() < 1
    assert (moved <= plain * (1 + 1e-6)).all()


@torch.no_grad()
def test_the_bound_is_an_average_over_its_draws():
    """More draws tighten it towards what quadrature gives, from below."""
    body = randomise(ActNormInv1x1(2))
    part = randomise(Dequantiser(2, 4, 2, steps=2), 0.1)
    flow = Flow(body, (2, 1, 1), 0, dequantiser=part)
    v = torch.tensor([1, 2]).reshape(1, 2, 1, 1)
    exact = cube_probabilities(flow, v, 2, nodes=60).log() + 4 * torch.tensor(2.0).log()
    draws = torch.rand(20_000, 2, 1, 1, dtype=torch.float64)
    nats = flow.log_prob((v - 2 + draws) / 4)
    several = nats.logsumexp(0) - torch.tensor(float(len(nats))).log()
    assert nats.mean() < exact and several == pytest.approx(exact.item(), abs=0.02)


FLOWS = {
    "glow": lambda: glow((3, 8, 8), **SMALL, classes=3),
    "srflow": lambda: srflow((3, 8, 8), **SMALL, **ENCODER, residual=True),
    "details": lambda: srflow((3, 8, 8), **SMALL, **ENCODER, details=True),
}


@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_fits_it_before_training_and_gives_integers_back(name):
    """Every norm is fitted, the same integers come back in float32, at any size."""
    flow = FLOWS[name]()
    scale = 2 if name == "details" else 1

    def given(count: int, size: int) -> tuple[torch.Tensor, ...]:
        side = size // 2 if name == "details" else size
        reach = 256 * scale // 2
        values = torch.randint(-reach, reach, (count, flow.shape[0], side, side))
        low = torch.rand(count, 3, size // 2, size // 2) - 0.5 if flow.encoder else None
        return values, low, torch.arange(count) % 3

    values, low, label = given(32, 8)
    initialise(StageLoss(flow), (values + torch.rand(values.shape)) / 256, low, label)
    assert all(part.fitted for part in flow.modules() if isinstance(part, ActNorm))
    randomise(flow, 0.05).float()
    flow.classes = 0  # whose read-out and prior are of one size, or need a label
    for size in (8, 16):
        values, low, _ = given(3, size)
        noise, log_det = flow.encode((values + 0.5) / 256, low)
        assert torch.equal(bins(flow.decode(noise, low), 8), values.float())
        assert noise.dtype == log_det.dtype == torch.float32
        with torch.autocast("cpu", torch.bfloat16):
            noise, log_det = flow.encode((values + 0.5) / 256, low)
        assert noise.dtype == log_det.dtype == torch.float32


def test_uniform_noise_is_left_alone():
    assert type(glow((1, 8, 8), levels=1, steps=1, width=8).dequantiser) is Identity
    with pytest.raises(InputError, match="'uniform' or 'variational', got 'other'"):
        dequantiser("other", 4, 8, 8, 4)


def test_a_cascade_with_learned_noise_is_trained_saved_and_scored(few_digits, tmp_path):
    """In bfloat16 too; the same integers come back, and a seed's draws are the same again."""
    few = [*TINY, "train.steps=3", "train.init_images=64", "train.validate_images=16"]
    few += ["model.dequantise=variational", "model.dequantise_steps=3", f"data.name={few_digits}"]
    for name in ("glow8", "srf16"):
        config = ROOT / "configs" / "mnist5k-haar" / f"{name}.yaml"
        more = ["train.memory=reversible", f"out={tmp_path / name}"]
        with chdir(tmp_path):
            assert Trainer(load_config(config, [*few, *more])).run()
        assert (
            "one draw\nof variational dequantisation" in (tmp_path / name / "README.md").read_text()
        )
    cascade = Cascade.load(tmp_path)
    source = open_images(str(few_digits), "test", 1)
    images = cascade.resize(source.read(torch.arange(8)))
    labels = source.labels[:8]
    assert torch.equal(cascade.decode(cascade.encode(images, labels), labels), images)
    one, again, more = (cascade.likelihood(images, samples=k, seed=1).bpd for k in (1, 1, 8))
    assert one == again < 8 and more == pytest.approx(one, abs=0.05)
    assert cascade.sample(4, labels=[1] * 4, seed=0).shape == (4, 1, 16, 16)
