"""The steps of one level: what no image decides is made once for all, then they take turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from stages.bijection import Bijection, Cond, compose
from stages.coupling import Coupling, Injections, Injector
from stages.linear import Mix
from stages.memo import Remembering
from stages.norm import NormedConv
from stages.reversible import rewindable


class Steps(Remembering, Bijection):
    """Parts one after the other, all of as many channels; each is handed what it needs.

    What the parameters alone decide is made for all mixes at once (and kept, in evaluation).
    What the condition alone decides is made for all parts at once, by convolutions of this level's
    ``features``: a convolution of (x, features) is one of x plus one of the features, and the
    second half is a slice of one wide convolution; injectors have a wide net of their own.
    Images may be several for one condition: those of a condition lie next to one another.

    With ``reversible`` a backward pass makes the activations again from the outputs.
    """

    reversible = False

    def __init__(
        self, parts: Sequence[Bijection], features: int = 0, injections: Injections | None = None
    ):
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        self.mixes = [i for i, part in enumerate(parts) if isinstance(part, Mix)]
        self.injectors = [i for i, part in enumerate(parts) if isinstance(part, Injector)]
        self.readers = [i for i, p in enumerate(parts) if isinstance(p, Coupling) and p.reads]
        self.injections = injections
        widths = [injections.reads] if injections else []
        readers: list[Any] = [parts[i] for i in self.readers]
        self.widths = widths + [part.reads for part in readers]
        if self.widths:
            self.project = NormedConv(features, sum(self.widths), 3)

    def of_condition(self, cond: Cond) -> list[Cond]:
        """What each part is handed of the condition."""
        given: list[Cond] = [()] * len(self.parts)
        if self.widths:
            slices = list(self.project(cond[0]).split(self.widths, dim=1))
            if self.injections:
                for i, affine in zip(self.injectors, self.injections(slices.pop(0)), strict=True):
                    given[i] = affine
            for i, hidden in zip(self.readers, slices, strict=True):
                given[i] = (hidden,)
        return given

    def _given(self, cond: Cond, inverse: bool) -> list[Cond]:
        """What each part is handed, for one direction."""
        given, mixes = self.of_condition(cond), [self.parts[i] for i in self.mixes]
        if mixes:
            folded = self.remembered(inverse, lambda: Mix.folded(mixes, inverse), mixes)
            for i, affine in zip(self.mixes, folded, strict=True):
                given[i] = affine
        return given

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        given = self._given(cond, inverse=False)
        if self.reversible and torch.is_grad_enabled():
            return rewindable(x, list(self.parts), given)
        return compose(x, self.parts, given)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        maps = [part.inverse for part in reversed(self.parts)]
        return compose(z, maps, self._given(cond, inverse=True)[::-1])
