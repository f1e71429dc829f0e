"""Chunks of a fixed size, so that a row's result does not depend on how many rows there are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# images that a net sees at once: fixed for a device, since sums differ slightly with batch size
CHUNK = 16  # on a CPU, where more would leave its caches
LARGE = 128  # elsewhere, where fewer would leave most of a GPU idle


def chunk_of(device: torch.device) -> int:
    """How many images a net on a device sees at once, unless told otherwise."""
    return CHUNK if device.type == "cpu" else LARGE


def in_chunks(
    function: Callable[..., Tensor], first: Tensor, *others: Tensor | None, size: int = CHUNK
) -> Tensor:
    """``function`` of the rows in chunks of ``size``, the last one padded with its last row.

    So a row's result does not depend on how many rows there are, nor on which others.
    """
    count, tensors = len(first), (first, *others)
    results = []
    for start in range(0, count, size):
        rows = torch.arange(start, start + size).clamp(max=count - 1)
        chunk = [None if t is None else t[rows.to(t.device)] for t in tensors]
        results.append(function(*chunk)[: min(size, count - start)])
    return torch.cat(results)
