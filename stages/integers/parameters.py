"""The nets that predict mixtures, and what they read: positions, values known before."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.nets import ResidualBlock


class ParameterNet(nn.Module):
    """The net that predicts a group's components: 3×3 convolutions with residual blocks.

    Args:
        values: channels of the values that it reads; 0 if it reads none.
        width: channels of ``hidden``, its first convolution of the features, and of its own.
        blocks: residual blocks, of two convolutions each.
        outputs: channels of the result.
        chained: whether it reads the last hidden channels of another net of this width, too. It
            does not at first: these weights begin as zeros.
    """

    def __init__(self, values: int, width: int, blocks: int, outputs: int, chained: bool = False):
        super().__init__()
        self.first: Any = nn.Conv2d(values, width, 3, padding=1, bias=False) if values else None
        self.chain: Any = None
        if chained:
            self.chain = nn.Conv2d(width, width, 1, bias=False)
            nn.init.zeros_(self.chain.weight)
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.last = nn.Conv2d(width, outputs, 3, padding=1)
        nn.init.normal_(self.last.weight, std=0.02)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]  # it has one

    def forward(
        self, hidden: Tensor, values: Tensor | None = None, before: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The components' parameters (B, outputs, h, w), and the last hidden channels.

        Args:
            hidden: (B, width, h, w).
            values: (B, values, h, w), or None if it reads none.
            before: the other net's last hidden channels, (B, width, h, w), if it is chained.
        """
        x = hidden if self.first is None else hidden + self.first(values)
        if self.chain is not None:
            x = x + self.chain(before)
        x = self.blocks(x)
        with torch.autocast(x.device.type, enabled=False):  # locations may be finer than bfloat16
            return self.last(F.relu(x).to(self.last.weight)), x


def positions(like: Tensor) -> Tensor:
    """Row and column of every pixel of images (B, C, h, w), from −1 to 1, (1, 2, h, w)."""
    sides = (torch.linspace(-1, 1, side, device=like.device) for side in like.shape[2:])
    return torch.stack(torch.meshgrid(*sides, indexing="ij"))[None].to(like.dtype)


def first_half(like: Tensor) -> Tensor:
    """Every second place of images (B, C, h, w), as on a chessboard, bool (h, w)."""
    rows, columns = (torch.arange(side, device=like.device) for side in like.shape[2:])
    return (rows[:, None] + columns) % 2 == 0


def near(deviation: Tensor, bits: int) -> Tensor:
    """Deviations as a net reads them, of moderate size: linearly and on a logarithmic scale."""
    return torch.cat([deviation * (4 / 2**bits), torch.asinh(deviation / 2) / 2], dim=1)
