"""The nets inside couplings: nothing at first, norms fitted, images of any size, places told."""

import pytest
import torch
from conftest import randomise

from stages import glow, initialise, srflow
from stages.actnorm import ActNorm, ConvActNorm
from stages.attention import places
from stages.nets import CouplingNet, GatedNet, TransformerNet, net_maker

ENCODER = {"encoder_features": 4, "encoder_growth": 2, "encoder_blocks": 1}
NETS = {"conv": CouplingNet, "gated": GatedNet, "vit": TransformerNet}


@pytest.mark.parametrize("kind", NETS)
def test_a_fresh_net_predicts_zeros_and_a_moved_one_reads_all_it_is_given(kind):
    net = net_maker(kind, blocks=2, coarsest=True)(3, 12, 5)
    assert type(net) is NETS[kind]
    x, condition = torch.randn(2, 3, 6, 4), torch.randn(2, 12, 6, 4)
    assert not net(x, condition).any()
    x, condition = x.double().requires_grad_(), condition.double().requires_grad_()
    result = randomise(net)(x, condition)
    assert result.shape == (2, 5, 6, 4)
    grads = torch.autograd.grad(result.square().sum(), [x, condition, *net.parameters()])
    assert all(grad.any() for grad in grads)


def test_vit_has_convolutions_but_for_the_coarsest_level():
    for flow in (
        glow((1, 16, 16), 3, 2, 8, nets="vit"),
        srflow((1, 16, 16), 3, 2, 8, nets="vit", conditional_prior=True, **ENCODER),
    ):
        kinds = [type(m) for m in flow.body.modules() if isinstance(m, tuple(NETS.values()))]
        assert kinds == 6 * [CouplingNet] + 2 * [TransformerNet]


@pytest.mark.parametrize("kind", ["gated", "vit"])
def test_every_norm_is_fitted(kind):
    flow = srflow((3, 8, 8), 2, 2, 8, nets=kind, net_blocks=2, **ENCODER)
    x, low = torch.rand(64, 3, 8, 8) - 0.5, torch.rand(64, 3, 4, 4) - 0.5
    initialise(flow.body, x, flow.encoder(low))
    assert all(m.fitted for m in flow.modules() if isinstance(m, ActNorm))
    normed = []
    for module in flow.modules():
        if isinstance(module, ConvActNorm):
            module.register_forward_hook(lambda *a: normed.append(a[2]))
    flow.encode(x, low)
    assert len(normed) > 2  # those that are called by themselves: not of conv nets
    for y in normed:
        assert y.mean((0, 2, 3)).abs().max() < 1e-3
        assert (y.std((0, 2, 3), correction=0) - 1).abs().max() < 2e-2


@pytest.mark.parametrize("kind", ["gated", "vit"])
def test_images_of_other_sizes_go_through(kind):
    flow = randomise(glow((1, 8, 8), 2, 1, 8, nets=kind), 0.1)
    x = torch.rand(2, 1, 12, 20, dtype=torch.float64) - 0.5
    z, _ = flow.encode(x)
    torch.testing.assert_close(flow.decode(z), x, rtol=0, atol=1e-9)


def test_places_differ_and_mean_the_same_at_any_size():
    small, large = places(torch.zeros(1, 1, 3, 4)), places(torch.zeros(1, 1, 5, 7))
    assert len(torch.unique(large, dim=0)) == 35
    torch.testing.assert_close(small[[0, 3, 8, 11]], large[[0, 6, 28, 34]])  # the corners
