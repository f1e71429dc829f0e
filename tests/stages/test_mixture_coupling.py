"""The map of a mixture coupling, elementwise: its ends, its slope, its inverse by a root search."""

import pytest
import torch
from conftest import randomise
from torch import Tensor

from stages import glow
from stages.coupling import scale_function
from stages.mixture_coupling import (
    LOG_SCALE,
    MIN_SLOPE,
    MixtureCoupling,
    inverse_mixture_map,
    mixture_map,
)

SHAPE = (32, 4, 8, 4, 4)  # B, M, C, H, W


def mixture(apart: float, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Log-weights, locations, and log-scales that fill their range the more, the further apart."""
    torch.manual_seed(0)
    weights, locations, scales = torch.randn(3, *SHAPE, dtype=dtype).unbind()
    log_scales = LOG_SCALE * torch.tanh(apart * scales / LOG_SCALE)
    return (2 * weights).log_softmax(1), apart * locations, log_scales


def values(dtype: torch.dtype = torch.float64) -> Tensor:
    """Near 0, and every ninth far away, up to 1000."""
    x = torch.randn(SHAPE[0], *SHAPE[2:], dtype=dtype)
    x.view(-1)[::9] *= 250
    return x.clamp(-1000, 1000)


@pytest.mark.parametrize("apart", [0.5, 2.0, 20.0])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float32, 1e-6), (torch.float64, 2e-15)])
def test_inverse_finds_the_root_to_rounding(dtype, least, apart):
    """So that the values agree; the roots do as far as the slope allows, which is 0.01 at least."""
    given, x = mixture(apart, dtype), values(dtype)
    y, log_slope = mixture_map(x, *given)
    back = inverse_mixture_map(y, *given)
    assert ((mixture_map(back, *given)[0] - y).abs() <= least * (1 + y.abs())).all()
    assert ((back - x).abs() * log_slope.exp() <= least * (1 + y.abs())).all()
    if dtype == torch.float64:
        assert ((back - x).abs() <= 1e-12 * (1 + x.abs())).all()


@pytest.mark.parametrize("apart", [0.5, 20.0])
def test_slope_is_autograd_s_and_bounded(apart):
    given, x = mixture(apart), values().requires_grad_()
    y, log_slope = mixture_map(x, *given)
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(log_slope, slope.log(), rtol=1e-9, atol=1e-9)
    assert slope.min() >= MIN_SLOPE and slope.log().max() <= LOG_SCALE


def test_it_is_the_logit_of_the_mixture_s_distribution_function():
    weights, locations, log_scales = mixture(1.0)
    x = torch.randn(SHAPE[0], *SHAPE[2:], dtype=torch.float64)
    cdf = (weights.exp() * torch.sigmoid((x[:, None] - locations) / log_scales.exp())).sum(1)
    expected = (1 - MIN_SLOPE) * torch.logit(cdf) + MIN_SLOPE * x
    torch.testing.assert_close(mixture_map(x, weights, locations, log_scales)[0], expected)


def test_extreme_inputs_stay_finite_and_come_back():
    coupling = randomise(MixtureCoupling(6, 8, scale_function(0.2))).float()
    x = torch.linspace(-1000, 1000, 2 * 6 * 8 * 8).reshape(2, 6, 8, 8)
    x[:, :3] /= 1000  # the half that the net reads
    z, log_det = coupling(x)
    back, _ = coupling.inverse(z)
    assert z.isfinite().all() and log_det.isfinite().all()
    torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_a_value_s_root_does_not_depend_on_the_others():
    given, x = mixture(20.0, torch.float32), values(torch.float32)
    y, _ = mixture_map(x, *given)
    alone = inverse_mixture_map(y[3:4], *(part[3:4] for part in given))
    assert torch.equal(inverse_mixture_map(y, *given)[3:4], alone)


def test_what_is_not_finite_ends_the_search_too():
    y = torch.full((SHAPE[0], *SHAPE[2:]), torch.nan, dtype=torch.float64)
    assert inverse_mixture_map(y, *mixture(1.0)).isnan().all()


@pytest.mark.parametrize("components", [1, 4, 5])
def test_a_fresh_coupling_is_near_an_affine_one(components):
    coupling = MixtureCoupling(4, 8, scale_function(0.5, "symmetric"), components).double()
    x = torch.linspace(-3, 3, 4 * 64).double().reshape(1, 4, 8, 8)
    z, log_det = coupling(x)
    if components == 1:
        torch.testing.assert_close(z, x, rtol=0, atol=1e-12)
    assert (z - x).abs().max() < 0.3 and log_det.abs() < 0.15 * 2 * 64


def test_gradients_pass_through_the_inverse():
    coupling = randomise(MixtureCoupling(2, 4, scale_function(0.5)))
    z = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = list(coupling.parameters())
    assert torch.autograd.gradcheck(lambda z, *_: coupling.inverse(z), (z, *weights), atol=1e-6)


def test_the_map_stays_in_float32_under_autocast():
    flow = randomise(glow((1, 8, 8), 2, 2, 8, coupling="mixture"), 0.1).float()
    x = torch.rand(2, 1, 8, 8) - 0.5
    with torch.autocast("cpu", torch.bfloat16):
        z, log_det = flow.encode(x)
        back = flow.decode(z)
    assert z.dtype == log_det.dtype == torch.float32
    torch.testing.assert_close(back, x, rtol=0, atol=1e-4)
