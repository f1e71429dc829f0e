"""Fixed point: functions near what they stand for, sums exact, probabilities that add up to 1."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from cascade.codec.integers import (
    EXP_UNIT,
    SIGMOID_UNIT,
    UNIT,
    deviations,
    exponential,
    sigmoid,
)
from cascade.codec.mixtures import ODDS, FixedBins, sharpness
from cascade.codec.nets import LARGEST, WEIGHT, FixedConv, centred, positions
from cascade.transforms.dequantise import centre
from stages import InputError
from stages.integers.bins import Bins, Components
from stages.integers.parameters import positions as positions_of


def test_functions_are_near_what_they_stand_for_and_never_fall():
    x = torch.arange(-40 * 2**16, 40 * 2**16, 977)
    real = x.double() / 2**16
    made = sigmoid()(x, 16)
    assert (made.double() / 2**SIGMOID_UNIT - torch.sigmoid(real)).abs().max() < 1e-5
    assert (made.diff() >= 0).all() and made[0] < 2 and made[-1] <= 2**SIGMOID_UNIT
    below = x[real <= 0]
    made, real = exponential()(below, 16), real[real <= 0]
    assert (made.double() / 2**EXP_UNIT - real.exp()).abs().max() < 1e-5
    d = torch.arange(-512, 513)
    assert (deviations(512).double() / 2**UNIT - torch.asinh(d / 2) / 2).abs().max() <= 2**-13


def test_sums_are_those_of_integers_of_any_length():
    """Beside Python's own integers, which have no largest one."""
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 3, 3, padding=1)
    conv.weight.data *= 30
    fixed = FixedConv(conv)
    x = torch.randint(-LARGEST, LARGEST + 1, (1, 24, 4, 4)).double()
    weight, padded = (
        np.vectorize(int, otypes=[object])(part.numpy())
        for part in (fixed.weight, nn.functional.pad(x, (1, 1, 1, 1)))
    )
    for row, column in ((0, 0), (2, 1), (3, 3)):
        window = padded[0, :, row : row + 3, column : column + 3]
        for channel in range(3):
            total = (weight[channel] * window).sum() + int(fixed.bias[channel])
            expected = min(max(total >> WEIGHT, -LARGEST), LARGEST)
            assert int(fixed(x)[0, channel, row, column]) == expected
    assert fixed(x.repeat(5, 1, 1, 1))[3:4].equal(fixed(x))  # however many at once
    near = conv.double()(x / 2**UNIT) * 2**UNIT
    inside = near.abs() < LARGEST
    assert inside.any() and ((fixed(x) - near)[inside].abs() / LARGEST).max() < 1e-3


def test_weights_whose_sums_may_be_inexact_are_refused():
    conv = nn.Conv2d(64, 1, 3, padding=1)
    conv.weight.data.fill_(200.0)
    with pytest.raises(InputError, match="too large for exact sums"):
        FixedConv(conv)


def test_inputs_are_those_of_the_flow():
    values = torch.arange(256)[None, None, None]
    assert centred(values).equal(centre(values, torch.float64) * 2**UNIT)
    made, real = positions(4, 7), positions_of(torch.zeros(1, 1, 4, 7).double())
    assert (made / 2**UNIT - real).abs().max() <= 2**-13 + 1e-9


@pytest.mark.parametrize("relative", [True, False])
def test_values_cost_what_their_probability_says(relative):
    """All values of a range, coded one by one: their lengths are -log2 P, and add up to 1."""
    torch.manual_seed(1)
    count, least, greatest = 6, -20, 31
    raw = (torch.randn(count, 3, 4, 1, 1) * 2**UNIT * 1.5).long()
    if not relative:
        raw[:, 1] //= 8
    shape = (count, 1, 1)
    shift = (torch.randn(shape) * 3 * 2**UNIT).long()
    bounds = torch.full(shape, least), torch.full(shape, greatest)
    fixed = FixedBins(raw, shift, *bounds, relative)
    lengths = []
    for value in range(least, greatest + 1):
        lengths.append(torch.zeros(count, dtype=torch.float64))
        open_ = torch.ones(count, dtype=torch.bool)  # all ranges have one length: all stay open

        def coder(odds, bits, total=lengths[-1], open_=open_):
            share = odds.double() / 2**ODDS
            total[open_[: len(odds)]] -= torch.where(bits, share, 1 - share).log2()
            return bits

        # every value of a place is coded with the others, so all are open in the same rounds
        values = torch.full(shape, value)
        assert fixed.code(coder, values, torch.ones(1, 1, dtype=torch.bool)).equal(values)
    lengths = torch.stack(lengths)
    assert (torch.exp2(-lengths).sum(0) - 1).abs().max() < 1e-4
    parts = Components(
        (fixed.weight.double() / 2**20).log()[:, None],
        fixed.location.double()[:, None] / 2**UNIT,
        -(fixed.sharpness.double() / 2**24).log()[:, None],
    )
    real = Bins(parts, bounds[0][:, None].double(), bounds[1][:, None].double())
    every = torch.arange(least, greatest + 1)[:, None, None, None].double()
    exact = torch.stack([real.log_mass(v.expand(count, 1, 1, 1)) for v in every])
    mass = exact.squeeze((2, 3, 4)).exp()
    assert (torch.exp2(-lengths) - mass).abs().sum(0).max() < 2e-3
    more = (mass * (lengths + mass.log2())).sum(0)
    assert more.max() < 1e-4


def test_scales_are_limited_as_the_mixture_limits_them():
    x = torch.arange(-14 * 2**UNIT, 18 * 2**UNIT, 501)
    real = x.double() / 2**UNIT
    least, most = math.log(0.02), math.log(20 * 256)
    above = least + nn.functional.softplus(real - least)
    expected = torch.exp(nn.functional.softplus(most - above) - most)
    made = sharpness()(x, UNIT).double() / 2**24
    assert (made / expected - 1).abs().max() < 2e-3
