"""The super-resolution net that an SRFlow's encoder is trained in before the flow."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stages.encoder import Encoder


class SuperResolution(nn.Module):
    """Low images (B, C, h, w) → their target (B, outputs, h, w), or twice that size if ``doubles``.

    The encoder's trunk, then a head of two convolutions that is thrown away after training.
    Source: ESRGAN; SRFlow, section 3.3.
    """

    def __init__(self, encoder: Encoder, outputs: int, doubles: bool):
        super().__init__()
        self.encoder = encoder
        self.doubles = doubles
        self.middle = nn.Conv2d(encoder.features, encoder.features, 3, padding=1)
        self.last = nn.Conv2d(encoder.features, outputs, 3, padding=1)

    def forward(self, low: Tensor) -> Tensor:
        trunk = self.encoder(low)[0][:, : self.encoder.features]
        if self.doubles:
            trunk = F.interpolate(trunk, scale_factor=2, mode="nearest")
        return self.last(F.leaky_relu(self.middle(trunk), 0.2))
