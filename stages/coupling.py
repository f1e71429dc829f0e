"""Affine maps whose scale and shift a net predicts: coupling, injector, and the learned prior."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import Bijection, Cond, Rewound, halves
from stages.nets import CouplingNet, Head
from stages.scale import ScaleLaw, whitening


def _sum(x: Tensor) -> Tensor:
    return x.flatten(1).sum(1)


def for_each(cond: Cond, x: Tensor) -> Cond:
    """A condition for images that are several for one condition, those of one side by side."""
    times = len(x) // len(cond[0])
    return cond if times == 1 else tuple(c.repeat_interleave(times, 0) for c in cond)


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
        hidden = for_each(cond, kept)[0] if self.reads else None
        predicted = self.net(kept, hidden).to(kept.dtype)
        if self.law is None:
            return predicted, torch.ones_like(predicted)
        shift, raw = predicted.chunk(2, dim=1)
        return shift, self.law(raw)

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, changed = halves(x)
        shift, scale = self._shift_scale(kept, cond)
        return torch.cat([kept, self._mapped(changed, shift, scale)], dim=1), _sum(scale.log())

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        kept, changed = halves(z)
        shift, scale = self._shift_scale(kept, cond)
        return torch.cat([kept, self._unmapped(changed, shift, scale)], dim=1), -_sum(scale.log())

    def rewind(self, z: Tensor, cond: Cond) -> Rewound:
        with torch.no_grad():
            kept, changed = (half.detach().clone() for half in halves(z))
        shift, scale = self._shift_scale(kept.requires_grad_(), cond)
        with torch.no_grad():
            changed = self._unmapped(changed, shift, scale)
        changed.requires_grad_()
        z = torch.cat([kept, self._mapped(changed, shift, scale)], dim=1)
        return [kept, changed], z, _sum(scale.log())

    @staticmethod
    def _mapped(changed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return scale * changed + shift

    @staticmethod
    def _unmapped(changed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (changed - shift) / scale


class SplitPrior(Coupling):
    """The learned prior N(μ, σ²) of the dropped half given the kept one, as a whitening map.

    z = (x − μ)/σ for the dropped half, log_det = −Σ log σ, so its noise is standard normal.
    ``log σ`` is bounded softly, see `stages.scale.whitening`. Source: Glow, section 3.
    """

    def __init__(self, channels: int, width: int, conditional: bool = False):
        super().__init__(channels, width, whitening, conditional)

    @staticmethod
    def _mapped(changed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (changed - shift) * scale

    @staticmethod
    def _unmapped(changed: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return changed / scale + shift


class Injector(Bijection):
    """y = s·x + t on all channels, where ``cond`` is (t, s), made by `Injections` (SRFlow)."""

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale = for_each(cond, x)
        return scale * x + shift, _sum(scale.log())

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        shift, scale = for_each(cond, z)
        return (z - shift) / scale, -_sum(scale.log())


class Injections(nn.Module):
    """Shift and scale of all injectors of a level, predicted from the condition alone.

    The nets of ``count`` injectors side by side, as the groups of one: they read ``count·width``
    channels, the condition's part in their first convolutions.
    """

    def __init__(self, count: int, channels: int, width: int, law: ScaleLaw):
        super().__init__()
        self.count = count
        self.law = law
        self.reads = count * width
        self.net = Head(self.reads, 2 * count * channels, groups=count)

    def forward(self, hidden: Tensor) -> list[Cond]:
        """(t, s), each (B, C, H, W) in float32 or better, of every injector."""
        predicted = self.net(F.relu(hidden))
        predicted = predicted.to(torch.promote_types(predicted.dtype, torch.float32))
        parts = [part.chunk(2, dim=1) for part in predicted.chunk(self.count, dim=1)]
        return [(shift, self.law(raw)) for shift, raw in parts]
