"""Affine maps whose scale and shift a net predicts: coupling, injector, and the learned prior."""

from __future__ import annotations

import torch
from torch import Tensor

from stages.bijection import Bijection, Cond, halves
from stages.nets import CouplingNet, Head
from stages.scale import ScaleLaw, whitening


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


class Coupling(Bijection):
    """The second half of the channels, changed given the first: y = s·x + t, log_det = Σ log s.

    A net reads the kept half (and its slice of the condition, if ``conditional``) and predicts
    the shift t and the raw scale that ``law`` maps to s. ``law`` None makes it additive: s = 1.
    """

    def __init__(
        self, channels: int, width: int, law: ScaleLaw | None = None, conditional: bool = False
    ):
        super().__init__()
        kept = channels // 2
        changed = channels - kept
        self.law = law
        self.reads = width if conditional else 0
        self.net = CouplingNet(kept, width, changed if law is None else 2 * changed)

    def _shift_scale(self, kept: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        predicted = self.net(kept, cond[0] if self.reads else None).to(kept.dtype)
        if self.law is None:
            return predicted, torch.ones_like(predicted)
        shift, raw = predicted.chunk(2, dim=1)
        return shift, self.law(raw)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, changed = halves(x)
        shift, scale = self._shift_scale(kept, cond)
        return torch.cat([kept, scale * changed + shift], dim=1), _sum(scale.log())

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, changed = halves(z)
        shift, scale = self._shift_scale(kept, cond)
        return torch.cat([kept, (changed - shift) / scale], dim=1), -_sum(scale.log())


class SplitPrior(Coupling):
    """The learned prior N(μ, σ²) of the dropped half given the kept one, as a whitening map.

    z = (x − μ)/σ for the dropped half, log_det = −Σ log σ, so its noise is standard normal.
    ``log σ`` is bounded softly, see `stages.scale.whitening`. Source: Glow, section 3.
    """

    def __init__(self, channels: int, width: int, conditional: bool = False):
        super().__init__(channels, width, whitening, conditional)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, dropped = halves(x)
        mean, scale = self._shift_scale(kept, cond)
        return torch.cat([kept, (dropped - mean) * scale], dim=1), _sum(scale.log())

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, noise = halves(z)
        mean, scale = self._shift_scale(kept, cond)
        return torch.cat([kept, noise / scale + mean], dim=1), -_sum(scale.log())


class Injector(Bijection):
    """y = s·x + t on all channels, s and t predicted from the condition alone (SRFlow)."""

    def __init__(self, channels: int, width: int, law: ScaleLaw):
        super().__init__()
        self.law = law
        self.reads = width
        self.net = Head(width, 2 * channels)

    def _shift_scale(self, x: Tensor, cond: Cond) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(cond[0]).to(x.dtype).chunk(2, dim=1)
        return shift, self.law(raw)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale = self._shift_scale(x, cond)
        return scale * x + shift, _sum(scale.log())

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale = self._shift_scale(z, cond)
        return (z - shift) / scale, -_sum(scale.log())
