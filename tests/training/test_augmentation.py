"""Disturbed low images: what noise on latents leaves alone, and what it costs."""

import math

import pytest
import torch
from conftest import randomise
from enumeration import ENCODER, tiny_cascade, two_bit_images
from torch.autograd.functional import jacobian

from cascade.config import Data, GlowModel, SRFlowModel, StageConfig
from cascade.evaluation.robustness import conditional_bpd, reconstructions
from cascade.stage import Stage
from cascade.training.augmentation import disturb, kl_to_prior
from cascade.transforms.dequantise import centre
from cascade.transforms.pyramid import halve
from stages import InputError, glow, srflow
from stages.flow import without_priors
from stages.prior import SplitPrior, log_normal

OPTIONS = {"levels": 2, "steps": 1, "width": 4, "squish": 0.5, "classes": 3}
FLOWS = {
    "glow": (lambda: glow((3, 8, 8), **OPTIONS), GlowModel, "bicubic"),
    "srflow": (
        lambda: srflow((3, 8, 8), residual=True, **OPTIONS, **ENCODER),
        SRFlowModel,
        "bicubic",
    ),
    "details": (
        lambda: srflow((3, 8, 8), details=True, **OPTIONS, **ENCODER),
        SRFlowModel,
        "haar",
    ),
}


def previous(kind: str) -> tuple[Stage, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """A previous stage, clean images of its size, their lower ones, and labels."""
    make, model, pyramid = FLOWS[kind]
    flow = randomise(make(), 0.1).eval()
    image = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    lower = None if model is GlowModel else halve(image, kind=pyramid)
    config = StageConfig("previous", 0, Data("none", 8), model(model.__name__[:-5].lower()))
    config.model.pyramid = pyramid
    return Stage("previous", config, flow), image, lower, torch.arange(6) % 3


@pytest.mark.parametrize("kind", FLOWS)
def test_without_noise_the_image_is_the_clean_one(kind):
    stage, image, lower, label = previous(kind)
    noise = torch.randn(6, *stage.flow.shape)
    for sigma in (0.0, 1e-9):
        sigmas = torch.full((6,), sigma)
        disturbed, replaced = disturb(stage, image, lower, label, sigmas, noise)
        assert torch.equal(disturbed, image) and not replaced.any()


@pytest.mark.parametrize("kind", FLOWS)
def test_noise_is_added_to_the_latent(kind):
    stage, image, lower, label = previous(kind)
    noise, sigmas = torch.randn(6, *stage.flow.shape).double(), torch.linspace(0, 0.2, 6).double()
    disturbed, replaced = disturb(stage, image, lower, label, sigmas, noise)
    assert not replaced.any()
    below = None if lower is None else centre(lower, torch.float64)
    z = stage.flow.noise_of(stage.coding.centre(image, torch.float64), below, label)
    y = stage.flow.decode(z + sigmas[:, None, None, None] * noise, below, label)
    assert torch.equal(disturbed, stage.coding.image(y, lower)[0])
    assert torch.equal(disturbed[0], image[0]) and not torch.equal(disturbed[1], image[1])
    if kind == "details":
        assert torch.equal(halve(disturbed, kind="haar"), lower), "its low image is untouched"


@pytest.mark.parametrize("kind", FLOWS)
def test_without_priors_a_flow_still_inverts_and_shares_its_weights(kind):
    stage, image, lower, label = previous(kind)
    bare = without_priors(stage.flow)
    y = stage.coding.centre(image, torch.float64)
    below = None if lower is None else centre(lower, torch.float64)
    raw, log_det = bare.encode(y, below)
    torch.testing.assert_close(bare.decode(raw, below), y, rtol=0, atol=1e-9)
    assert not torch.allclose(raw, stage.flow.noise_of(y, below, label))
    ours, theirs = dict(stage.flow.named_parameters()), dict(bare.named_parameters())
    assert all(ours[name] is parameter for name, parameter in theirs.items() if name in ours)
    assert not any(isinstance(module, SplitPrior) for module in bare.modules())
    assert any(isinstance(module, SplitPrior) for module in stage.flow.modules())
    row = jacobian(lambda v: bare.encode(v[None], None if below is None else below[:1])[0][0], y[0])
    expected = torch.linalg.slogdet(row.reshape(y[0].numel(), -1)).logabsdet
    torch.testing.assert_close(log_det[0], expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.5])
def test_divergence_is_what_sampling_says(sigma):
    torch.manual_seed(0)
    z = torch.randn(3, 2, 4, 4).double()
    noise = torch.randn(20_000, 3, 2, 4, 4).double()
    drawn = (z + sigma * noise).flatten(0, 1)
    log_q = log_normal(noise.flatten(0, 1)) - z[0].numel() * math.log(sigma)
    sampled = (log_q - log_normal(drawn)).reshape(-1, 3).mean(0)
    torch.testing.assert_close(kl_to_prior(z, sigma), sampled, rtol=0.01, atol=0)
    assert kl_to_prior(torch.zeros_like(z), 1.0).eq(0).all()


def test_no_divergence_without_noise():
    for sigma in (0.0, -1.0, math.nan):
        with pytest.raises(InputError, match="sigma above 0"):
            kl_to_prior(torch.zeros(1, 1, 2, 2), sigma)


EXPLOSIONS = {
    "large": ("log_scale", -60.0),
    "infinite": ("log_scale", -2000.0),
    "nan": ("bias", math.nan),
}


@pytest.mark.parametrize("name", EXPLOSIONS)
def test_an_exploding_stage_is_replaced_and_counted(name):
    cascade = tiny_cascade()
    parameter, value = EXPLOSIONS[name]
    base = cascade.stages[0].flow
    getattr(base.body.norm, parameter).data.fill_(value)
    values = torch.arange(4, dtype=torch.uint8).reshape(4, 1, 1, 1)
    noise, sigmas = torch.ones(values.shape), torch.full((4,), 0.5)
    disturbed, replaced = disturb(cascade.stages[0], values, None, None, sigmas, noise)
    assert replaced.all() and torch.equal(disturbed, values)

    ((noisy, exploded),) = conditional_bpd(cascade, two_bit_images(), None, 1, [0.5])
    assert exploded == 1 and math.isnan(noisy)


def test_what_explodes_is_what_the_stage_s_own_limit_says():
    cascade = tiny_cascade()
    for limit, some in ((0.6, True), (1e6, False)):
        for stage in cascade.stages:
            stage.config.augment.limit = limit
        ((_, exploded),) = conditional_bpd(cascade, two_bit_images(), None, 1, [1.0])
        found = reconstructions(cascade, two_bit_images(), None, 0, [3.0])
        assert (exploded > 0) == (found.exploded[0] > 0) == some


def test_only_the_rows_that_explode_are_replaced():
    base = tiny_cascade().stages[0]
    image, noise = torch.ones(3, 1, 1, 1, dtype=torch.uint8), torch.tensor([2.0, 100, math.inf])
    disturbed, replaced = disturb(base, image, None, None, torch.ones(3), noise.reshape(3, 1, 1, 1))
    assert replaced.tolist() == [False, True, True]
    assert disturbed[0] != 1 and (disturbed[1:] == 1).all()
