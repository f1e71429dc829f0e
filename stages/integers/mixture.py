"""Integers as standard normal noise, through the distribution function of a mixture of logistics.

Source: Flow++, https://arxiv.org/abs/1902.00275, section 3.3 (mapping values by a distribution
function); the mixture is that of PixelCNN++, see `stages.integers.bins`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond
from stages.coupling import repeat_condition
from stages.errors import InputError
from stages.integers.bins import Bins, Components, Group
from stages.integers.parameters import ParameterNet, first_half, near, positions
from stages.integers.support import Support
from stages.labels import ClassTable

SHARPEST = 0.02  # scale of a logistic, in integers: sharper than a bin
MIN_LOG_SCALE = math.log(SHARPEST)
WIDEST = 20.0  # times the whole range: a scale that grew without end would lose its gradient


@dataclass(frozen=True)
class MixtureSettings:
    """What of a `LogisticMixture` can be chosen.

    ``components``: M. ``colour``: ``linear``: a channel's locations depend linearly on the channels
    before it, by predicted coefficients; or ``none``. ``order``: ``subbands``: a group's components
    depend on the groups before it; ``halves``: those of every second place, as on a chessboard,
    also on the group's values at the places between; ``together``: on the features alone.
    ``width``, ``blocks``: of the nets, see `ParameterNet`. ``chain``: each net reads the hidden
    channels of the net before it, too, so that later groups have deeper nets.
    """

    components: int = 4
    colour: str = "linear"
    order: str = "subbands"
    width: int = 32
    blocks: int = 1
    chain: bool = False


class LogisticMixture(Bijection):
    """y = (v + u)/2ⁿ − ½ ↔ z = Φ⁻¹(F(v) + u·P(v)), elementwise, one group of values after another.

    F is the distribution function of a discretized mixture of logistics within the bounds of v, and
    P(v) = F(v + 1) − F(v). So the inverse maps all real z to values that images have. Within a bin
    Φ(z) is linear in u; log_det = Σ [log P(v) + n·log 2 − log φ(z)]. Where z is modelled as
    N(0, I), the density of y is therefore that of a probability P(v) spread evenly over v's bin.

    Nets predict the mixtures from features, from the label and from the integers of the groups
    before, never from u. Values beyond the bounds count as the nearest ones within.

    ``cond`` is what `condition` gives.

    Args:
        support: order and bounds of the values (B, groups·C, h, w).
        channels: C.
        features: channels of the features; 0 if there are none, then the nets read positions.
        settings: what can be chosen.
        classes: number of classes; 0 for nets that read no label.
    """

    location: Tensor
    log_scale: Tensor

    def __init__(
        self,
        support: Support,
        channels: int,
        features: int,
        settings: MixtureSettings = MixtureSettings(),
        classes: int = 0,
    ):
        super().__init__()
        self.support, self.channels, self.settings = support, channels, settings
        count = settings.components
        self.linear = settings.colour == "linear"
        outputs = channels * 3 * count + (channels * (channels - 1) // 2 if self.linear else 0)
        self.halves = settings.order == "halves"
        if settings.order == "together":
            shapes = [(0, support.groups * outputs)]
        else:
            seen = range(support.groups)  # groups, of two values to a net each, see `near`
            both = [known + half for known in seen for half in (0, 1)] if self.halves else seen
            shapes = [(2 * known * channels, outputs) for known in both]
        width = settings.width
        self.project = nn.Conv2d(features or 2, len(shapes) * width, 3, padding=1)
        self.labels: Any = None
        if classes:
            self.labels = ClassTable(classes, len(shapes) * width)
        self.nets = nn.ModuleList(
            ParameterNet(v, width, settings.blocks, o, settings.chain and place > 0)
            for place, (v, o) in enumerate(shapes)
        )
        places, full = (torch.arange(count) + 0.5) / count, 2.0**support.bits
        if support.relative:  # from as narrow as a bin to as wide as a fair part of the range
            location, scale = torch.full_like(places, 0.5), 0.25 * (full / 4) ** places
        else:  # evenly over the range
            location, scale = (places - 0.5) * full, torch.full_like(places, full / (2 * count))
        self.register_buffer("location", location[:, None, None], persistent=False)
        self.register_buffer("log_scale", scale.log()[:, None, None], persistent=False)

    def hidden(self, features: Tensor | None, like: Tensor) -> Tensor:
        """The nets' first convolution, without labels and values, for images such as ``like``."""
        if features is None:
            features = positions(like)
        return self.project(features)

    def condition(
        self, hidden: Tensor, like: Tensor, low: Tensor | None, label: Tensor | None
    ) -> Cond:
        """What `forward` and `inverse` need: (hidden, low, anchors), or hidden alone.

        Args:
            hidden: what `hidden` gives.
            like: the images (n·B, C, h, w) that will be mapped, or noise of their shape.
            low: low images, with C channels, (B, C, h, w), or what else the support is given.
            label: labels of n·B images, see `ClassTable`, if the nets read them.
        """
        shared: Cond = (hidden,)
        if low is not None:
            low = low[:, : self.support.given(self.channels)]
            shared = (hidden, low, self.support.anchors(low))
        hidden, *rest = repeat_condition(shared, like)
        if self.labels is not None:
            hidden = hidden + self.labels(label)[:, :, None, None]
        return hidden, *rest

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        z, log_det = self.by_value(x, cond)
        return z, log_det.flatten(1).sum(1)

    def by_value(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        """z, and every value's part of log_det, both of the shape of x."""
        scaled = x * 2**self.support.bits
        whole = scaled.floor()
        parts = self.support.split(scaled - whole)
        z, masses = [], []
        for part, (bins, value) in zip(parts, self._bins(whole, cond), strict=True):
            noise, log_mass = bins.noise(value, part)
            z.append(noise)
            masses.append(log_mass)
        joined = self.support.join(z)
        return joined, self._log_det(joined, self.support.join(masses))

    def log_prob(self, x: Tensor, cond: Cond) -> Tensor:
        """The log-density of x (B,) in nats where z is modelled as N(0, I); u does not enter."""
        whole = (x * 2**self.support.bits).floor()
        masses = [bins.log_mass(value) for bins, value in self._bins(whole, cond)]
        log_density = self.support.join(masses) + self.support.bits * math.log(2)
        return log_density.flatten(1).sum(1)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        known: list[Tensor] = []
        parts, masses = [], []
        predict = self._predictor(cond)
        for noise in self.support.split(z):
            value, part, log_mass = self._values(predict(known, None), noise)
            if self.halves:  # the first half again, as it was, and the second, given the first
                value, part, log_mass = self._values(predict(known, value), noise)
            known.append(value)
            parts.append(part)
            masses.append(log_mass)
        x = (self.support.join(known) + self.support.join(parts)) / 2**self.support.bits
        x = torch.where(z.isfinite(), x, math.nan)
        return x, -self._log_det(z, self.support.join(masses)).flatten(1).sum(1)

    def _values(self, group: Group, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A group's integers, channel by channel, the parts of their bins, and log P."""
        made: list[tuple[Tensor, Tensor, Tensor]] = []
        for channel in range(self.channels):
            before = torch.cat([noise[:, :0], *(value for value, *_ in made)], dim=1)
            bins = group.bins(before, channel)
            made.append(bins.value_of(noise[:, channel : channel + 1], self.support.doublings))
        value, part, log_mass = (torch.cat(tensors, dim=1) for tensors in zip(*made, strict=True))
        return value, part, log_mass

    def _log_det(self, z: Tensor, log_mass: Tensor) -> Tensor:
        """log P + n·log 2 − log φ(z), by value."""
        log_normal = -0.5 * (z.square() + math.log(2 * math.pi))
        return log_mass + self.support.bits * math.log(2) - log_normal

    def _bins(self, whole: Tensor, cond: Cond) -> Iterator[tuple[Bins, Tensor]]:
        """The mixtures of every group's integers, and these, within their bounds."""
        known: list[Tensor] = []
        predict = self._predictor(cond)
        for value in self.support.split(whole):
            group = predict(known, value if self.halves else None)
            value = _clamped(value, group.least, group.greatest)
            yield group.all_bins(value), value
            known.append(value)

    def _predictor(self, cond: Cond) -> Callable[[list[Tensor], Tensor | None], Group]:
        """Predicts the next group from the integers of those before it, and from its first half.

        The first half of the second argument counts; without one, only what is predicted of the
        first half is meant.
        """
        hidden, low = cond[0], cond[1] if len(cond) > 1 else None
        anchors: list[Any] = [0.0] * self.support.groups
        if low is not None:
            anchors = self.support.split(cond[2])
        together = None
        if self.settings.order == "together":
            together = self.nets[0](hidden)[0].chunk(self.support.groups, dim=1)
        each = hidden.split(self.settings.width, dim=1)
        inner: dict[int, Tensor] = {}  # every net's last hidden channels

        def raw_of(net: int, seen: list[Tensor]) -> Tensor:
            values = torch.cat(seen, dim=1) if seen else None
            raw, inner[net] = self.nets[net](each[net], values, inner.get(net - 1))
            return raw

        def predict(known: list[Tensor], own: Tensor | None) -> Group:
            place, bounds = len(known), self.support.bounds(known, low, hidden)
            if together:
                raw = together[place]
            else:
                pairs = zip(known, anchors, strict=False)
                seen = [near(value - anchor, self.support.bits) for value, anchor in pairs]
                raw = raw_of(place * (1 + self.halves), seen)
                if own is not None:
                    first, own = first_half(own), _clamped(own, *bounds)
                    half = near((own - anchors[place]) * first, self.support.bits)
                    raw = torch.where(first, raw, raw_of(2 * place + 1, [*seen, half]))
            return self._group(raw, anchors[place], *bounds)

        return predict

    def _within(self, log_scale: Tensor) -> Tensor:
        """Log-scales softly limited from below and above."""
        largest = self.support.bits * math.log(2) + math.log(WIDEST)
        above = MIN_LOG_SCALE + F.softplus(log_scale - MIN_LOG_SCALE)
        return largest - F.softplus(largest - above)

    def _group(self, raw: Tensor, anchor: Any, least: Tensor, greatest: Tensor) -> Group:
        mixtures = self.channels * 3 * self.settings.components
        weight, location, log_scale = (
            raw[:, :mixtures].unflatten(1, (self.channels, 3, -1)).unbind(2)
        )
        log_scale = self.log_scale + log_scale
        components = Components(
            F.log_softmax(weight, dim=2),
            self.location + 2**self.support.bits / 32 * location,
            self._within(log_scale),
        )
        return Group(components.moved(anchor), raw[:, mixtures:], anchor, least, greatest)


def without_steps(
    steps: int, levels: int, first: MixtureSettings | None, dequantise: str = "uniform"
) -> bool:
    """Whether a mixture is all there is of a flow.

    Raises:
        InputError: for no steps without a mixture, at several levels, or with learned noise.
    """
    if steps:
        return False
    if first is None or levels > 1:
        raise InputError("steps=0 leaves the mixture alone: it needs first=mixture and levels=1")
    if dequantise != "uniform":
        raise InputError("steps=0 has no use for dequantisation noise: set dequantise=uniform")
    return True


def _clamped(value: Tensor, least: Tensor, greatest: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(value, least), greatest)
