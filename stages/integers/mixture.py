"""Integers as standard normal noise, through the distribution function of a mixture of logistics.

Source: PixelCNN++, https://arxiv.org/abs/1701.05517, sections 2.1 (a discretized mixture whose ends
collect what lies beyond them) and 2.2 (linear dependence between colours); Flow++,
https://arxiv.org/abs/1902.00275, section 3.3 (mapping values by a distribution function).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond
from stages.coupling import repeat_condition
from stages.errors import InputError
from stages.integers.support import Support
from stages.nets import ResidualBlock

FLOOR = 1e-4  # the probability of the uniform component, which bounds |z| and the cost of any value
BEYOND = 1e6  # where a logistic distribution function is 0 or 1 for certain
MIN_LOG_SCALE = math.log(0.02)  # of a logistic, in integers: sharper than a bin
WIDEST = 20.0  # times the whole range: a scale that grew without end would lose its gradient
LARGEST_PART = 1 - 2**-14  # of a bin, so that v + u is never rounded up to v + 1 in float32


class Components(NamedTuple):
    """Logistics by value: log-weights, locations, log-scales (B, C, M, h, w), in integers."""

    log_weight: Tensor
    location: Tensor
    log_scale: Tensor

    def of_channel(self, channel: int) -> Components:
        """Those of one channel, (B, 1, M, h, w)."""
        return Components(*(part[:, channel : channel + 1] for part in self))

    def moved(self, shift: Any) -> Components:
        """The same with locations moved by (B, C, h, w), or by a number."""
        shift = shift.unsqueeze(2) if isinstance(shift, Tensor) else shift
        return self._replace(location=self.location + shift)


class Bins:
    """A discretized mixture for each of many values, (B, C, h, w), that lie between two bounds.

    Args:
        components: the mixture of each value.
        least: the smallest integer, (B, C, h, w) or of fewer dimensions.
        greatest: the largest integer, likewise.
    """

    def __init__(self, components: Components, least: Tensor, greatest: Tensor):
        self.components, self.least, self.greatest = components, least, greatest
        self.floor = FLOOR / (greatest - least + 1)

    def _arguments(self, edge: Tensor) -> Tensor:
        """What the logistic distribution functions at an edge are sigmoids of, (B, C, M, h, w)."""
        _, location, log_scale = self.components
        return (edge.unsqueeze(2) - location) * torch.exp(-log_scale)

    def _edges(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """`_arguments` at both edges of integers' bins; beyond the bounds there is nothing."""
        lower, upper = self._arguments(value), self._arguments(value + 1)
        lower = lower.masked_fill((value <= self.least).unsqueeze(2), -BEYOND)
        return lower, upper.masked_fill((value >= self.greatest).unsqueeze(2), BEYOND)

    def log_mass(self, value: Tensor) -> Tensor:
        """log P of integers, (B, C, h, w) in nats."""
        return self._log_mass(value, *self._edges(value))

    def _log_mass(self, value: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """σ(b) − σ(a) = σ(b)·σ(−a)·(1 − e^(a−b)), where a difference would cancel to 0."""
        at_an_end = ((value <= self.least) | (value >= self.greatest)).unsqueeze(2)
        gap = torch.exp(-self.components.log_scale).masked_fill(at_an_end, BEYOND)
        inside = F.logsigmoid(upper) + F.logsigmoid(-lower) + torch.log(-torch.expm1(-gap))
        mixed = torch.logsumexp(self.components.log_weight + inside, 2)
        return torch.logaddexp(mixed + math.log1p(-FLOOR), self.floor.log())

    def _below(self, edge: Tensor, argument: Tensor) -> Tensor:
        """P(integers < edge), precise where it is small."""
        return self._tail(argument) + self.floor * (edge - self.least)

    def _above(self, edge: Tensor, argument: Tensor) -> Tensor:
        """P(integers ≥ edge), precise where it is small."""
        return self._tail(-argument) + self.floor * (self.greatest + 1 - edge)

    def _tail(self, argument: Tensor) -> Tensor:
        mixed = (self.components.log_weight.exp() * torch.sigmoid(argument)).sum(2)
        return (1 - FLOOR) * mixed

    def noise(self, value: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
        """z = Φ⁻¹(F(v) + u·P(v)), from whichever tail of F is the smaller one, and log P(v)."""
        lower, upper = self._edges(value)
        log_mass = self._log_mass(value, lower, upper)
        mass = log_mass.exp()
        left = self._below(value, lower) + part * mass
        right = self._above(value + 1, upper) + (1 - part) * mass
        z = torch.special.ndtri(torch.minimum(left, right).clamp(1e-30, 0.5))
        return torch.where(left < right, z, -z), log_mass

    def value_of(self, z: Tensor, doublings: int) -> tuple[Tensor, Tensor, Tensor]:
        """The integer v and the part u of its bin that `noise` maps to z, by bisection; log P(v).

        ``doublings`` is the logarithm to base 2 of the largest number of values, rounded up.
        """
        left, right = torch.special.ndtr(z), torch.special.ndtr(-z)
        value, last = (bound.to(z).expand_as(z) for bound in (self.least, self.greatest))
        for _ in range(doublings):
            middle = torch.floor((value + last + 1) / 2)
            argument = self._arguments(middle)
            below, above = self._below(middle, argument), self._above(middle, argument)
            reached = torch.where(z < 0, below <= left, above >= right)
            value = torch.where(reached, middle, value)
            last = torch.where(reached, last, middle - 1)
        lower, upper = self._edges(value)
        log_mass = self._log_mass(value, lower, upper)
        from_left = left - self._below(value, lower)
        from_right = right - self._above(value + 1, upper)
        mass = log_mass.exp()
        part = torch.where(z < 0, from_left / mass, 1 - from_right / mass)
        return value, part.clamp(0, LARGEST_PART), log_mass


@dataclass
class Group:
    """What is known of a group of values before any of them is.

    ``components`` are those of every channel, (B, C, M, h, w), as long as the channels before are
    where they are expected, at ``anchor``; ``coefficients`` (B, C·(C − 1)/2, h, w), or of 0
    channels, say how far the others' deviations from there move them.
    """

    components: Components
    coefficients: Tensor
    anchor: Any  # (B, C, h, w), or a number
    least: Tensor
    greatest: Tensor

    def bins(self, before: Tensor, channel: int) -> Bins:
        """Those of one channel, given the integers (B, channel, h, w) of the channels before."""
        bounds = (self._of(bound, channel) for bound in (self.least, self.greatest))
        shift = self._shift(before, channel)
        return Bins(self.components.of_channel(channel).moved(shift), *bounds)

    def all_bins(self, values: Tensor) -> Bins:
        """Those of all channels, given all integers (B, C, h, w)."""
        shifts = [self._shift(values, channel) for channel in range(values.shape[1])]
        components = self.components.moved(torch.cat(shifts, dim=1))
        return Bins(components, self.least, self.greatest)

    def _shift(self, values: Tensor, channel: int) -> Tensor:
        """How far the channels before move one channel's locations, (B, 1, h, w).

        At first as far as the last of them deviates: colours go together.
        """
        if channel == 0 or not self.coefficients.shape[1]:
            return torch.zeros_like(self.components.location[:, :1, 0])
        anchor = self.anchor[:, :channel] if isinstance(self.anchor, Tensor) else self.anchor
        deviation = values[:, :channel] - anchor
        first = channel * (channel - 1) // 2
        predicted = self.coefficients[:, first : first + channel]
        return (predicted * deviation).sum(1, keepdim=True) + deviation[:, -1:]

    @staticmethod
    def _of(bound: Tensor, channel: int) -> Tensor:
        return bound[:, channel : channel + 1] if bound.ndim else bound


class ParameterNet(nn.Module):
    """The net that predicts a group's components: 3×3 convolutions with residual blocks.

    Args:
        values: channels of the values that it reads; 0 if it reads none.
        width: channels of ``hidden``, its first convolution of the features, and of its own.
        blocks: residual blocks, of two convolutions each.
        outputs: channels of the result.
    """

    def __init__(self, values: int, width: int, blocks: int, outputs: int):
        super().__init__()
        self.first: Any = nn.Conv2d(values, width, 3, padding=1, bias=False) if values else None
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.normal_(self.last.weight, std=0.02)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, hidden: Tensor, values: Tensor | None = None) -> Tensor:
        """(B, width, h, w) and values (B, values, h, w), or None → (B, outputs, h, w)."""
        x = hidden if self.first is None else hidden + self.first(values)
        x = F.relu(self.blocks(x))
        with torch.autocast(x.device.type, enabled=False):  # locations may be finer than bfloat16
            return self.last(x.to(self.last.weight))


@dataclass(frozen=True)
class MixtureSettings:
    """What of a `LogisticMixture` can be chosen.

    ``components``: M. ``colour``: ``linear``: a channel's locations depend linearly on the channels
    before it, by predicted coefficients; or ``none``. ``order``: ``subbands``: a group's components
    depend on the groups before it; ``together``: on the features alone. ``width``, ``blocks``: of
    the nets, see `ParameterNet`.
    """

    components: int = 5
    colour: str = "linear"
    order: str = "subbands"
    width: int = 32
    blocks: int = 1


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
        if settings.order == "subbands":
            shapes = [(2 * group * channels, outputs) for group in range(support.groups)]
        else:
            shapes = [(0, support.groups * outputs)]
        width = settings.width
        self.project = nn.Conv2d(features or 2, len(shapes) * width, 3, padding=1)
        self.labels: Any = None
        if classes:
            self.labels = nn.Embedding(classes, len(shapes) * width)
            nn.init.zeros_(self.labels.weight)
        self.nets = nn.ModuleList(ParameterNet(v, width, settings.blocks, o) for v, o in shapes)
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
            features = positions(*like.shape[2:]).to(like)
        return self.project(features)

    def condition(
        self, hidden: Tensor, like: Tensor, low: Tensor | None, label: Tensor | None
    ) -> Cond:
        """What `forward` and `inverse` need: (hidden, low, anchors), or hidden alone.

        Args:
            hidden: what `hidden` gives.
            like: the images (n·B, C, h, w) that will be mapped, or noise of their shape.
            low: low images, with C channels, (B, C, h, w).
            label: classes (n·B,), if the nets read them.
        """
        shared: Cond = (hidden,)
        if low is not None:
            low = low[:, : self.channels]
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
            value, part, log_mass = self._values(predict(known), noise)
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
            group = predict(known)
            value = torch.minimum(torch.maximum(value, group.least), group.greatest)
            yield group.all_bins(value), value
            known.append(value)

    def _predictor(self, cond: Cond) -> Callable[[list[Tensor]], Group]:
        """Predicts the next group from the integers of those before it."""
        hidden, low = cond[0], cond[1] if len(cond) > 1 else None
        anchors: list[Any] = [0.0] * self.support.groups
        if low is not None:
            anchors = self.support.split(cond[2])
        together = None
        if self.settings.order == "together":
            together = self.nets[0](hidden).chunk(self.support.groups, dim=1)
        each = hidden.split(self.settings.width, dim=1)

        def predict(known: list[Tensor]) -> Group:
            place = len(known)
            if together:
                raw = together[place]
            else:
                pairs = zip(known, anchors, strict=False)
                seen = [near(value - anchor, self.support.bits) for value, anchor in pairs]
                raw = self.nets[place](each[place], torch.cat(seen, dim=1) if seen else None)
            return self._group(raw, anchors[place], *self.support.bounds(known, low, hidden))

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


def positions(height: int, width: int) -> Tensor:
    """Row and column of every pixel, from −1 to 1, (1, 2, height, width)."""
    rows, columns = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


def near(deviation: Tensor, bits: int) -> Tensor:
    """Deviations as a net reads them, of moderate size: linearly and on a logarithmic scale."""
    return torch.cat([deviation * (4 / 2**bits), torch.asinh(deviation / 2) / 2], dim=1)
