"""Variational dequantisation: where in its bin each value lies is learned, not uniform.

Integers v come to a flow as y = (v + e)/2ⁿ − ½ with uniform noise e. A conditional flow T moves the
noise within the bin, u = T(e | v), before the others see it. The density of u is q(u | v) =
1/|dT/de|, so

    log P(v) ≥ E_q[log p((v + u)/2ⁿ − ½) − log q(u | v)] − D·log 2ⁿ
             = E_e[log p((v + T(e | v))/2ⁿ − ½) + log |dT/de|] − D·log 2ⁿ,

and T is one more bijection, in front of all others. The bound is tight where q(u | v) is
proportional to p within the bin; for uniform noise p would have to be constant there.

Source: Flow++, section 3.1, https://arxiv.org/abs/1902.00275.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.bijection import Bijection, Cond, Identity, Squeeze
from stages.coupling import AffineCoupling, Parameters, repeat_condition
from stages.errors import InputError
from stages.steps import Steps

EDGE = 2.0**-16  # e in [0, 1] is moved this far from the ends, so that its logit is finite
MARGIN = 2.0**-14  # u keeps this far from the ends of its bin, so that v + u never rounds out of it
FINEST = 2.0**-24  # a share of a bin is held this far from 0 and 1 before its logit is taken
LEAST_NOISE = 2.0**-15  # of an e that is computed back; float32 holds it beside |v| < 512
SCALE = 0.1  # the smallest scale of a logit by one coupling; the largest is 2 − SCALE
FARTHEST = 4.0  # values are held within ±this before a net sees them; images live in ±½ or ±2


class Reverse(Bijection):
    """The channels in reverse order, so that the next coupling changes the others; log_det = 0."""

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return x.flip(1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return self(z)


def _scale(raw: Tensor) -> Tensor:
    return SCALE + 2 * (1 - SCALE) * torch.sigmoid(raw)


class LogitCoupling(AffineCoupling):
    """A conditional coupling of logits with bounded shift and scale; a fresh one is the identity.

    With t = tanh(raw) and s = α + 2·(1 − α)·sigmoid(raw), α = `SCALE`, it may narrow a distribution
    down, and hardly widen it. The middle of a bin, whose logit is 0, so stays away from the bin's
    ends: with four couplings, of which two change each value, its u lies in (0.05, 0.95).
    """

    def __init__(self, channels: int, width: int):
        super().__init__(channels, width, _scale, conditional=True)

    def _parameters_of(self, predicted: Tensor) -> Parameters:
        shift, scale = super()._parameters_of(predicted)
        return torch.tanh(shift), scale


class Dequantiser(Bijection):
    """y = (v + e)/2ⁿ − ½ → (v + u)/2ⁿ − ½ with u = d + (1 − 2d)·sigmoid(f(logit(e) | v)).

    f is K couplings, each conditional on v and on the features of the low image; d is `MARGIN`. So
    every bin is mapped into itself, but for a share 2d that nothing is mapped to: a bound on
    log P(v) stays one. log_det = Σ log |du/de|. A fresh one is the identity up to d. The inverse
    reads what lies in this share as the nearest that does not; it never changes v, and what is not
    finite stays so.

    Args:
        channels: C of y, (B, C, H, W).
        width: hidden channels of the couplings' nets.
        bits: n.
        steps: K.
        features: channels of ``cond[0]`` (B, F, H, W), or (B/n, F, H, W) for n images of each low
            image side by side; 0 is without a condition.
    """

    def __init__(self, channels: int, width: int, bits: int, steps: int = 4, features: int = 0):
        super().__init__()
        self.bits, self.features = bits, features
        parts = [part for _ in range(steps) for part in (LogitCoupling(channels, width), Reverse())]
        self.steps = Steps([*parts, *[Reverse()] * (steps % 2)], channels + features)

    def _bins(self, y: Tensor, cond: Cond) -> tuple[Tensor, Tensor, Cond]:
        """v − 2ⁿ⁻¹, the place in the bin, in [0, 1], and the condition of the steps."""
        scaled = y * 2**self.bits
        v = scaled.floor()
        place = (scaled - v).nan_to_num(0.5)
        seen = ((v + 0.5) / 2**self.bits).nan_to_num().clamp(-FARTHEST, FARTHEST)
        if self.features:
            (feature,) = repeat_condition(cond[:1], y)
            seen = torch.cat([seen, feature.to(seen.dtype)], dim=1)
        return v, place, (seen,)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        v, e, seen = self._bins(x, cond)
        logit, opened = _logit(e, EDGE)
        logit, change = self.steps(logit, seen)
        u, closed = _sigmoid(logit, MARGIN)
        return (v + u) / 2**self.bits, _sum(opened + closed) + change

    def log_slopes(self, x: Tensor, z: Tensor) -> Tensor:
        """What of log_det is not the couplings', by value, for x and its image z (B, C, H, W)."""
        e, u = (y * 2**self.bits % 1 for y in (x, z))
        return _logit(e, EDGE)[1] - _logit(u, _undone(MARGIN))[1]

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        v, u, seen = self._bins(z, cond)
        logit, opened = _logit(u, _undone(MARGIN))
        logit, change = self.steps.inverse(logit, seen)
        e, closed = _sigmoid(logit, _undone(EDGE))
        e = e.clamp(LEAST_NOISE, 1 - LEAST_NOISE)
        return (v + e) / 2**self.bits, _sum(opened + closed) + change


def _sum(log_slopes: Tensor) -> Tensor:
    return log_slopes.flatten(1).sum(1)


def _logit(place: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """The logit of p = edge + (1 − 2·edge)·place, held within (0, 1), and its log-slope."""
    width = 1 - 2 * edge
    inside, outside = ((edge + width * x).clamp(min=FINEST).log() for x in (place, 1 - place))
    return inside - outside, math.log(width) - inside - outside


def _sigmoid(logit: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """edge + (1 − 2·edge)·sigmoid(logit), and its log-slope."""
    width = 1 - 2 * edge
    slope = math.log(width) + F.logsigmoid(logit) + F.logsigmoid(-logit)
    return edge + width * logit.sigmoid(), slope


def _undone(edge: float) -> float:
    """The edge of the inverse: p = edge + (1 − 2·edge)·x has x = edge′ + (1 − 2·edge′)·p."""
    return -edge / (1 - 2 * edge)


def dequantiser(
    kind: str,
    channels: int,
    width: int,
    bits: int,
    steps: int,
    features: int = 0,
    squeezed: bool = True,
) -> Bijection:
    """What a flow does to an image's dequantisation noise before all else.

    Args:
        kind: ``uniform``: nothing. ``variational``: a `Dequantiser`.
        channels: of the first level's steps.
        squeezed: whether the first level begins with a squeeze, as the `Dequantiser` then does.
        width, bits, steps, features: as of `Dequantiser`.

    Raises:
        InputError: for another kind.
    """
    if kind == "uniform":
        return Identity()
    if kind != "variational":
        raise InputError(f"dequantise is 'uniform' or 'variational', got {kind!r}")
    inner = Dequantiser(channels, width, bits, steps, features)
    return Squeeze(inner) if squeezed else inner
