"""Images that are too large to be held: in a file, made and looked at strip by strip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

STRIP = 128  # rows that are looked at at once


class Canvas:
    """An image uint8 (C, H, W) in a file, which grows from the top: what is in it is done.

    The file holds the values of row after row, pixel by pixel. Indexing, as that of a tensor, maps
    the file into memory for as long as it takes to copy what is asked for.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int]):
        self.file, self.shape = file, torch.Size(shape)

    @property
    def _row(self) -> int:
        return self.shape[0] * self.shape[2]  # bytes

    @property
    def done(self) -> int:
        """Whole rows that the file holds."""
        return self.file.stat().st_size // self._row if self.file.exists() else 0

    def keep(self, rows: int) -> None:
        """Forget all but the first rows."""
        if self.file.exists():
            os.truncate(self.file, rows * self._row)

    def append(self, strip: Tensor) -> None:
        """Write the next rows, uint8 (C, h, W), to the disk itself."""
        with open(self.file, "ab") as file:
            file.write(strip.permute(1, 2, 0).contiguous().numpy().data)
            file.flush()
            os.fsync(file.fileno())

    def __getitem__(self, index: Any) -> Tensor:
        """A copy of what a tensor (C, H, W) gives for the index, once all rows are there."""
        channels, height, width = self.shape
        values = np.memmap(self.file, np.uint8, "c", shape=(height, width, channels))
        return torch.from_numpy(values).permute(2, 0, 1)[index].clone()


Pixels = Tensor | Canvas  # uint8 (C, H, W)


def spans(length: int) -> Iterator[range]:
    """``length`` rows in strips."""
    return (range(top, min(top + STRIP, length)) for top in range(0, length, STRIP))
