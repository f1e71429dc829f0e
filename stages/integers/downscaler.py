"""A low image that is learned, in place of one that interpolation makes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.bijection import squeeze


class Downscaler(nn.Module):
    """D'(x) = ⌊D(x) + a(x, D(x))⌉ within 0..2ⁿ − 1: a low image moved by a small net.

    Whatever integers a low image holds, P(x) ≥ P(D'(x))·P(x | D'(x)), so D' may be learned with the
    stages above and below. The net a starts at 0. Gradients pass the rounding as if there were
    none: straight-through, https://arxiv.org/abs/1308.3432, section 3.

    Args:
        channels: C.
        width: hidden channels of the net.
        bits: n of the integers v in y = (v + u)/2ⁿ − ½.
    """

    def __init__(self, channels: int, width: int, bits: int = 8):
        super().__init__()
        self.bits = bits
        self.first = nn.Conv2d(5 * channels, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, channels, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor, low: Tensor) -> Tensor:
        """Bin centres of D'(x), (B, C, h, w).

        Args:
            x: images (B, C, 2h, 2w), of which the integers count alone, not the places in bins.
            low: bin centres of D(x), (B, C, h, w).
        """
        with torch.autocast(x.device.type, enabled=False):  # or the integers depend on precision
            x = self._centres(x.to(self.last.weight))
            low = low.to(x)
            hidden = F.relu(self.first(torch.cat([squeeze(x), low], dim=1)))
            moved = low + self.last(F.relu(self.middle(hidden))) / 16
            reach = 0.5 - 0.5 / 2**self.bits
            moved = moved.clamp(-reach, reach)
            return moved + (self._centres(moved) - moved).detach()

    def _centres(self, x: Tensor) -> Tensor:
        return ((x * 2**self.bits).floor() + 0.5) / 2**self.bits
