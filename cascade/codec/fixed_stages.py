"""The stages of an exact cascade as coders of integer images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.chain import Cascade
from cascade.codec.integers import UNIT, deviations
from cascade.codec.mixtures import BITS, Coder, FixedBins
from cascade.codec.nets import LARGEST, FixedConv, FixedEncoder, FixedParameterNet, positions
from cascade.stage import Stage
from cascade.transforms import haar
from stages import InputError
from stages.encoder import ResidualEncoder
from stages.integers.mixture import LogisticMixture
from stages.integers.parameters import first_half
from stages.integers.support import reach, unlift

MIDDLE = 2 ** (BITS - 1)
FAR = 2 ** (BITS + 1)  # beyond every difference of two values


class FixedStage(ABC):
    """A stage whose flow is a mixture alone: groups of integers, one after the other."""

    count: int  # groups
    relative: bool  # whether values are near 0, rather than anywhere in the range

    def __init__(self, mixture: Any):
        assert isinstance(mixture, LogisticMixture)  # see `check_codable`
        self.channels, self.linear = mixture.channels, mixture.linear
        self.components = mixture.settings.components
        self.project = FixedConv(mixture.project)
        self.halves = mixture.halves
        self.nets = [FixedParameterNet(net) for net in mixture.nets]

    def code_groups(
        self, coder: Coder, hidden: Tensor, low: Tensor | None, groups: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """The groups int64 (B, C, h, w), decoded, or, where they are given, encoded.

        ``hidden`` is what the nets read of low images or positions, those of all nets together.
        """
        known: list[Tensor] = []
        together = None
        each: Sequence[Tensor] = hidden.chunk(len(self.nets), dim=1)
        if len(self.nets) < self.count:  # one net predicts all groups
            together = self.nets[0](hidden)[0].chunk(self.count, dim=1)
        first = first_half(hidden)
        everywhere = torch.ones_like(first)
        inner: Tensor | None = None  # what a chained net reads of the one before it
        for place in range(self.count):
            given = None if groups is None else groups[place]
            seen = [near(value) for value in known]
            if together:
                raw = together[place]
            else:
                net = place * (1 + self.halves)
                values = torch.cat(seen, dim=1) if seen else None
                raw, inner = self.nets[net](each[net], values, inner)
            bounds = self.bounds(known, low, raw)
            if not self.halves:
                known.append(self._code_group(coder, raw, *bounds, given, everywhere))
                continue
            one = self._code_group(coder, raw, *bounds, given, first)
            half = near(one.where(first, 0))
            raw, inner = self.nets[net + 1](each[net + 1], torch.cat([*seen, half], dim=1), inner)
            two = self._code_group(coder, raw, *bounds, given, ~first)
            known.append(one.where(first, two))
        return known

    def _code_group(
        self,
        coder: Coder,
        raw: Tensor,
        least: Tensor,
        greatest: Tensor,
        values: Tensor | None,
        where: Tensor,
    ) -> Tensor:
        """A group's channels, one after the other: locations depend linearly on those before."""
        mixtures = self.channels * 3 * self.components
        parts = raw[:, :mixtures].unflatten(1, (self.channels, 3, -1))
        made: list[Tensor] = []
        for channel in range(self.channels):
            shift = torch.zeros_like(raw[:, 0])
            if channel and self.linear:
                first = mixtures + channel * (channel - 1) // 2
                before = torch.stack(made, dim=1)
                shift = (raw[:, first : first + channel] * before).sum(1) + (made[-1] << UNIT)
            bins = FixedBins(
                parts[:, channel], shift, least[:, channel], greatest[:, channel], self.relative
            )
            given = None if values is None else values[:, channel]
            made.append(bins.code(coder, given, where))
        return torch.stack(made, dim=1)

    @abstractmethod
    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The least and the greatest values (B, C, h, w) of the next group."""

    @abstractmethod
    def code(self, coder: Coder, low: Any, image: Tensor | None) -> Tensor:
        """Images uint8 (B, C, H, W), decoded, or, where they are given, encoded."""


class FixedBase(FixedStage):
    """A base: the four pixels of every 2×2 block, one after the other."""

    relative, count = False, 4

    def __init__(self, stage: Stage):
        super().__init__(stage.flow.mixture)
        self.size = stage.shape[1] // 2

    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        least = torch.full_like(like[:, : self.channels], -MIDDLE)
        return least, -least - 1

    def code(self, coder: Coder, low: int, image: Tensor | None) -> Tensor:
        """``low`` is the number of images."""
        hidden = self.project(positions(self.size, self.size)).repeat(low, 1, 1, 1)
        groups = None
        if image is not None:
            blocks = F.pixel_unshuffle(image.long() - MIDDLE, 2)
            groups = blocks.unflatten(1, (-1, 4)).unbind(2)
        made = torch.stack(self.code_groups(coder, hidden, None, groups), dim=2).flatten(1, 2)
        return (F.pixel_shuffle(made, 2) + MIDDLE).to(torch.uint8)


class FixedDetails(FixedStage):
    """A stage of Haar details: the row means' lh, then the upper and the lower row's own h."""

    relative, count = True, 3

    def __init__(self, stage: Stage):
        super().__init__(stage.flow.mixture)
        self.encoder = FixedEncoder(stage.flow.encoder)

    def bounds(
        self, known: Sequence[Tensor], low: Tensor | None, like: Tensor
    ) -> tuple[Tensor, Tensor]:
        assert low is not None
        mean = low.long()
        if known:
            mean = unlift(mean, known[0])[len(known) - 1]
        largest = reach(mean, BITS)
        return -largest, largest

    def code(self, coder: Coder, low: Tensor, image: Tensor | None) -> Tensor:
        hidden = self.project(self.encoder(low))
        details = None
        if image is not None:
            details = haar.split(image, rows=True)[1].long().chunk(3, dim=1)
        made = self.code_groups(coder, hidden, low, details)
        return haar.join(low, torch.cat(made, dim=1), BITS, rows=True)


def near(deviation: Tensor) -> Tensor:
    """What `stages.integers.parameters.near` gives, in units of 2⁻¹²."""
    logarithmic = deviations(FAR)[deviation + FAR]
    both = torch.cat([deviation << UNIT + 2 - BITS, logarithmic], dim=1)
    return both.double().clamp(-LARGEST, LARGEST)


class FixedCascade:
    """An exact cascade's probabilities in integers.

    Raises `InputError` for a cascade that is not of mixtures alone, see `check_codable`.
    """

    def __init__(self, cascade: Cascade):
        check_codable(cascade)
        base, *others = cascade.stages
        self.shape = cascade.shape
        self.base = FixedBase(base)
        self.details = [FixedDetails(stage) for stage in others]

    def code(self, coder: Coder, count: int, images: Tensor | None = None) -> Tensor:
        """``count`` images uint8 (count, C, H, W), decoded, or, where they are given, encoded."""
        levels: list[Tensor | None] = [None] * (1 + len(self.details))
        if images is not None:
            halved = [images]
            for _ in self.details:
                halved.append(haar.halve(halved[-1]))
            levels = [*reversed(halved)]
        image = self.base.code(coder, count, levels[0])
        for stage, level in zip(self.details, levels[1:], strict=True):
            image = stage.code(coder, image, level)
        return image


def check_codable(cascade: Cascade) -> None:
    """Raise `InputError` unless a cascade's probabilities can be had in integers."""
    if cascade.given:
        raise InputError(
            f"{cascade.stages[0].name} codes no whole images: it is given {cascade.given}"
        )
    for stage in cascade.stages:
        model = stage.config.model
        wanted = {
            "data.bits=8": cascade.bits == BITS,
            "model.pyramid=haar": model.pyramid == "haar",
            "model.first=mixture model.steps=0": stage.flow.exact,
            "model.classes=0": not stage.classes,
            "model.encoder=residual": stage.flow.encoder is None
            or isinstance(stage.flow.encoder, ResidualEncoder),
            "augment.condition=false": not stage.config.augment.condition,
        }
        missing = " ".join(setting for setting, given in wanted.items() if not given)
        if missing:
            raise InputError(
                f"{stage.name} cannot code: a codec takes stages trained with {missing}"
            )
