"""PIQE: the share of an image's busy blocks that look distorted. It has learned from nothing.

Source: Venkatanath, Praneeth, Bh, Channappayya and Medasani, 2015, Blind image quality evaluation
using perception based features, https://doi.org/10.1109/NCC.2015.7084843. What the paper leaves
open is as in MATLAB's `piqe`, so that figures compare: an image that 16 does not divide goes on
as it ends, and the surround of a block's middle columns 8 and 9 lacks columns 8 and 10.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cascade.evaluation.enlargements.natural_scenes import luma, normalised

BLOCK, SEGMENT = 16, 6  # pixels: sides of a block, and pieces of its edges
BUSY = 0.1  # variance of a block of normalised values that people look at
FLAT = 0.1  # deviation of a piece of an edge that is an artefact
MIDDLE = (7, 8)  # columns of a block
SURROUND = tuple(column for column in range(BLOCK) if column not in (7, 9))


def piqe(image: Tensor) -> float:
    """PIQE of an image uint8 (C, H, W), 0 to 100, the less the better; 100 of a flat image."""
    grey = luma(image)
    down, across = (-side % BLOCK for side in grey.shape)
    grey = F.pad(grey[None], (0, across, 0, down), mode="replicate")[0]
    values, _ = normalised(grey)
    blocks = values.unfold(0, BLOCK, BLOCK).unfold(1, BLOCK, BLOCK).reshape(-1, BLOCK, BLOCK)
    variance = blocks.flatten(1).var(1)
    busy = variance > BUSY
    if not busy.any():
        return 100.0
    blocks, variance = blocks[busy], variance[busy]
    distortion = artefacts(blocks) * (1 - variance) + noisy(blocks) * variance
    return 100 * ((distortion.sum() + 1) / (len(blocks) + 1)).item()


def artefacts(blocks: Tensor) -> Tensor:
    """Whether some piece of a block's four edges is flat, bool (N,)."""
    edges = [blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]]
    pieces = torch.stack(edges, 1).unfold(2, SEGMENT, 1)
    return (pieces.std(-1) < FLAT).any(2).any(1)


def noisy(blocks: Tensor) -> Tensor:
    """Whether a block's middle columns differ from those around them as in noise, bool (N,)."""
    deviation = blocks.flatten(1).std(1)
    middle, surround = (blocks[:, :, c].flatten(1).std(1) for c in (MIDDLE, SURROUND))
    ratio = (middle / surround).nan_to_num(0.0)
    return deviation > 2 * (deviation - ratio).abs() / torch.maximum(deviation, ratio)
