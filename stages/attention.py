"""Self-attention among the pixels of an image, as transformer blocks.

Source: Jet, section 3 (vision transformers inside couplings), https://arxiv.org/abs/2412.15129;
ViT, section 3.1 (pre-norm blocks), https://arxiv.org/abs/2010.11929.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

HEAD = 32  # channels of a head, as far as they divide the width
FREQUENCIES = 4  # of the waves that tell a pixel's place, in each direction


def places(x: Tensor) -> Tensor:
    """Where the pixels of images x (B, C, H, W) are, as features (H·W, 4·`FREQUENCIES`).

    sin and cos of 2^k·π/2·r and 2^k·π/2·c, k = 0, 1, …, where rows r and columns c run from −1 to
    1, from the first pixel to the last: so they mean the same at any size.
    """
    height, width = x.shape[2:]
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device)
    pairs = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).reshape(-1, 2, 1)
    waves = 2.0 ** torch.arange(FREQUENCIES, dtype=x.dtype, device=x.device)
    angles = (math.pi / 2 * pairs * waves).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class TransformerBlock(nn.Module):
    """h + attention(norm(h)), then h + mlp(norm(h)), on tokens (B, N, width).

    Args:
        width: channels of a token, and of what attention and the MLP (4·width hidden) add to it.
    """

    def __init__(self, width: int):
        super().__init__()
        self.heads = width // math.gcd(width, HEAD)
        self.norm = nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, hidden: Tensor) -> Tensor:
        queries, keys, values = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.attend(self.norm(hidden)).chunk(3, dim=2)
        )
        attended = F.scaled_dot_product_attention(queries, keys, values)
        hidden = hidden + self.join(attended.transpose(1, 2).flatten(2))
        return hidden + self.mlp(hidden)
