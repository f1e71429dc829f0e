"""The RRDB encoder: features of the low image for every level of an SRFlow."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.nets import Net

RESIDUAL_SCALE = 0.2


class DenseBlock(nn.Module):
    """Five 3×3 convolutions, each of which reads everything before it, around a scaled skip."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        inputs = [features + i * growth for i in range(5)]
        outputs = [growth] * 4 + [features]
        convs = [nn.Conv2d(i, o, 3, padding=1) for i, o in zip(inputs, outputs, strict=True)]
        self.convs = nn.ModuleList(convs)
        for conv in convs:
            nn.init.kaiming_normal_(conv.weight, a=0.2)
            conv.weight.data.mul_(0.1)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has one

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for conv in self.convs[:-1]:
            seen = torch.cat([seen, F.leaky_relu(conv(seen), 0.2)], dim=1)
        return x + RESIDUAL_SCALE * self.convs[-1](seen)


class RRDB(Net):
    """Three dense blocks inside one more scaled skip (ESRGAN)."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.blocks(x)


def tapped_blocks(blocks: int) -> list[int]:
    """Up to four evenly spaced blocks whose outputs are features too: 23 → 1, 8, 15, 22."""
    spread = torch.linspace(min(1, blocks - 1), blocks - 1, 4, device="cpu")
    return sorted({round(i) for i in spread.tolist()})


class Encoder(nn.Module):
    """(B, C, h, w) → one feature map a level, (B, `channels`, h/2^i, w/2^i), finest first.

    The trunk's output and evenly spaced block outputs are stacked, then halved by 2×2 averages
    (bilinear interpolation by one half) once for each further level. Channels that the image has
    not are read as zeros. Source: SRFlow, section 3.2.
    """

    def __init__(self, image_channels: int, features: int, growth: int, blocks: int, levels: int):
        super().__init__()
        self.image_channels = image_channels
        self.levels = levels
        self.features = features
        self.taps = tapped_blocks(blocks)
        self.channels = features * (1 + len(self.taps))
        self.first = nn.Conv2d(image_channels, features, 3, padding=1)
        self.blocks = nn.ModuleList(RRDB(features, growth) for _ in range(blocks))
        self.trunk = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, low: Tensor) -> tuple[Tensor, ...]:
        low = F.pad(low, (0, 0, 0, 0, 0, self.image_channels - low.shape[1]))
        first = x = self.first(low.contiguous(memory_format=torch.channels_last))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        stack = torch.cat([first + self.trunk(x), *(outputs[i] for i in self.taps)], dim=1)
        maps = [stack]
        for _ in range(self.levels - 1):
            maps.append(F.avg_pool2d(maps[-1], 2))
        return tuple(maps)
