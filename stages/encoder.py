"""The RRDB encoder of an SRFlow, and the super-resolution net that trains it before the flow.

Source: ESRGAN, section 3.1 (residual-in-residual dense blocks), https://arxiv.org/abs/1809.00219;
SRFlow (low-resolution encoding network), https://arxiv.org/abs/2006.14200.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.nets import CheckpointedNet, ResidualBlock

RESIDUAL_SCALE = 0.2  # β of ESRGAN


class DenseBlock(nn.Module):
    """x + β·conv₅(…), five densely connected 3×3 convolutions.

    Args:
        features: channels of input and output.
        growth: channels of each hidden convolution.
    """

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
        dense = x
        for conv in self.convs[:-1]:
            dense = torch.cat([dense, F.leaky_relu(conv(dense), 0.2)], dim=1)
        return x + RESIDUAL_SCALE * self.convs[-1](dense)


class RRDB(CheckpointedNet):
    """Residual-in-residual dense block: x + β·f(x), where f is three dense blocks."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.blocks = nn.Sequential(*(DenseBlock(features, growth) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return x + RESIDUAL_SCALE * self.blocks(x)


def feature_blocks(blocks: int) -> list[int]:
    """Up to four evenly spaced blocks whose outputs are features: 23 blocks → 1, 8, 15, 22."""
    spread = torch.linspace(min(1, blocks - 1), blocks - 1, 4, device="cpu")
    return sorted({round(i) for i in spread.tolist()})


class Encoder(nn.Module):
    """Features of the low-resolution image for every level of an SRFlow.

    The outputs of the trunk and of up to four blocks are concatenated, then averaged over 2×2
    pixels (bilinear interpolation by ½) once for each further level.

    Args:
        image_channels: channels of the low image; channels that an input lacks are read as zeros.
        features: channels of the trunk.
        growth: channels of each hidden convolution of a dense block.
        blocks: number of RRDB blocks.
        levels: number of feature maps.

    The attribute ``channels`` is the number of channels of each feature map.
    """

    def __init__(self, image_channels: int, features: int, growth: int, blocks: int, levels: int):
        super().__init__()
        self.image_channels = image_channels
        self.levels = levels
        self.features = features
        self.taps = feature_blocks(blocks)
        self.channels = features * (1 + len(self.taps))
        self.first = nn.Conv2d(image_channels, features, 3, padding=1)
        self.blocks = nn.ModuleList(RRDB(features, growth) for _ in range(blocks))
        self.trunk = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, low: Tensor) -> tuple[Tensor, ...]:
        """(B, C, h, w) → a feature map (B, ``channels``, h/2ⁱ, w/2ⁱ) a level, finest first."""
        low = F.pad(low, (0, 0, 0, 0, 0, self.image_channels - low.shape[1]))
        maps = [self._finest(self.first(low.contiguous(memory_format=torch.channels_last)))]
        for _ in range(self.levels - 1):
            maps.append(F.avg_pool2d(maps[-1], 2))
        return tuple(maps)

    def _finest(self, first: Tensor) -> Tensor:
        """The finest feature map, from the first convolution's output."""
        x, outputs = first, []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        return torch.cat([first + self.trunk(x), *(outputs[i] for i in self.taps)], dim=1)


class ResidualEncoder(Encoder):
    """An encoder of plain residual blocks, several times as fast as one of RRDB of equal width.

    The feature map is the last block's output. The arguments are those of `Encoder`, without
    ``growth``.
    """

    def __init__(self, image_channels: int, features: int, blocks: int, levels: int):
        nn.Module.__init__(self)
        self.image_channels, self.levels = image_channels, levels
        self.features = self.channels = features
        self.first = nn.Conv2d(image_channels, features, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(features) for _ in range(blocks))

    def _finest(self, first: Tensor) -> Tensor:
        for block in self.blocks:
            first = block(first)
        return first


class SuperResolution(nn.Module):
    """An encoder with a super-resolution head of two convolutions, to train the encoder alone.

    The head is discarded after this training. Source: SRFlow, training details.

    Args:
        encoder: the encoder to train.
        outputs: channels of the predicted image.
        doubles: whether the predicted image has twice the size of the low image.
    """

    def __init__(self, encoder: Encoder, outputs: int, doubles: bool):
        super().__init__()
        self.encoder = encoder
        self.doubles = doubles
        self.middle = nn.Conv2d(encoder.features, encoder.features, 3, padding=1)
        self.last = nn.Conv2d(encoder.features, outputs, 3, padding=1)

    def forward(self, low: Tensor) -> Tensor:
        """(B, C, h, w) → (B, ``outputs``, h, w), or (B, ``outputs``, 2h, 2w) if ``doubles``."""
        trunk = self.encoder(low)[0][:, : self.encoder.features]
        if self.doubles:
            trunk = F.interpolate(trunk, scale_factor=2, mode="nearest")
        return self.last(F.leaky_relu(self.middle(trunk), 0.2))
