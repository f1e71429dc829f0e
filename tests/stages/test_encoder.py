"""The encoder's features: where they lie, what they see, and a channel that an image has not."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from conftest import randomise

from stages.encoder import Encoder, feature_blocks


def encoder(blocks: int = 2, levels: int = 3) -> Encoder:
    return randomise(Encoder(3, 4, 2, blocks, levels), 0.05)


@pytest.mark.parametrize("blocks", range(1, 30))
def test_tapped_blocks_are_even_and_end_at_the_last(blocks):
    taps = feature_blocks(blocks)
    assert taps == sorted(set(taps)) and len(taps) == min(4, max(1, blocks - 1))
    assert 0 <= taps[0] <= 1 and taps[-1] == blocks - 1
    steps = [high - low for low, high in itertools.pairwise(taps)]
    assert not steps or max(steps) - min(steps) <= 1


def test_the_published_net_s_taps():
    assert feature_blocks(23) == [1, 8, 15, 22]


@pytest.mark.parametrize("blocks", [1, 5])
def test_each_level_is_the_average_of_the_finer_one(blocks):
    net, low = encoder(blocks), torch.rand(2, 3, 8, 8).double() - 0.5
    maps = net(low)
    assert [m.shape for m in maps] == [(2, net.channels, s, s) for s in (8, 4, 2)]
    for fine, coarse in itertools.pairwise(maps):
        half = F.interpolate(fine, scale_factor=0.5, mode="bilinear", antialias=False)
        torch.testing.assert_close(coarse, half, rtol=0, atol=1e-12)


def test_a_channel_that_the_image_has_not_is_read_as_zeros():
    net, low = encoder(), torch.rand(2, 2, 4, 4).double()
    zeros = torch.cat([low, torch.zeros_like(low[:, :1])], dim=1)
    for ours, theirs in zip(net(low), net(zeros), strict=True):
        assert torch.equal(ours, theirs)
    ones = torch.cat([low, torch.ones_like(low[:, :1])], dim=1)
    assert not torch.equal(net(ones)[0], net(zeros)[0])


def test_every_parameter_has_a_gradient():
    net = encoder(3, 2)
    sum(m.square().sum() for m in net(torch.rand(1, 3, 4, 4).double())).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
