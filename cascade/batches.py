"""Training batches as a function of (seed, step): nothing to rewind when a run resumes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.dequantise import centre, dequantise, reduce_bits
from cascade.images import ImageSource
from cascade.pyramid import halve, halve_to
from cascade.seeds import generator, uniform


@dataclass
class Batch:
    """Dequantised images (B, C, H, W), their clean low images or None, and labels or None."""

    high: Tensor
    low: Tensor | None
    label: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        high, low, label = (
            None if t is None else t.to(device, non_blocking=True)
            for t in (self.high, self.low, self.label)
        )
        return Batch(high, low, label)


class Batches:
    """One process's part of the batch of every step.

    Epoch e visits the images in an order drawn from (seed, e); step s takes the next
    ``batch_size`` of that endless list, of which process r of n takes the r-th of n equal parts.
    Flips and dequantisation noise are drawn from (seed, step, place in the whole batch), so the
    joined batch is the same for any number of processes.
    """

    def __init__(self, source: ImageSource, config: StageConfig, rank: int = 0, processes: int = 1):
        self.source = source
        self.config = config
        self.each = config.train.batch_size // processes
        self.first = rank * self.each

    def __call__(self, step: int) -> Batch:
        """The batch of one step."""
        places = torch.arange(self.each) + self.first
        positions = step * self.config.train.batch_size + places
        return self._make(self._indices(positions), step, places, self.config.data.flip)

    def fixed(self, count: int) -> Batch:
        """The first ``count`` images of the first epoch, never flipped: the same on every process."""
        places = torch.arange(min(count, len(self.source)))
        return self._make(self._indices(places), -1, places, flip=False)

    def _make(self, indices: Tensor, step: int, places: Tensor, flip: bool) -> Batch:
        """Images at ``indices``, with the randomness of ``places`` in the batch of ``step``."""
        data, model = self.config.data, self.config.model
        sources = [generator(self.config.seed, step, place) for place in places.tolist()]
        images = reduce_bits(self.source.read(indices), data.bits)
        if flip:
            flipped = torch.tensor([uniform((), source) < 0.5 for source in sources])
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        high = halve_to(images, data.size, data.bits)
        low = None
        if model.kind == "srflow":
            low = centre(halve(high, data.bits), bits=data.bits)
        noise = torch.stack([uniform(high.shape[1:], source) for source in sources])
        labels = self.source.labels[indices] if model.classes else None
        return Batch(dequantise(high, noise, data.bits), low, labels)

    def steps(self, first: int, last: int) -> Iterator[Batch]:
        """The batches of steps ``first`` to ``last``, each prepared while the one before is used."""
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self, first)
            for step in range(first, last):
                batch = coming.result()
                if step + 1 < last:
                    coming = pool.submit(self, step + 1)
                yield batch

    def _indices(self, positions: Tensor) -> Tensor:
        count = len(self.source)
        epochs = (positions // count).unique().tolist()
        orders = {e: torch.randperm(count, generator=self._shuffle(e)) for e in epochs}
        return torch.stack([orders[p // count][p % count] for p in positions.tolist()])

    def _shuffle(self, epoch: int) -> torch.Generator:
        return generator(self.config.seed, "order", epoch)
