"""Training batches as a function of (seed, step): nothing to rewind when a run resumes."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cascade.config import StageConfig
from cascade.data.sources import ImageSource
from cascade.data.workers import made_ahead
from cascade.transforms.coding import coding, condition
from cascade.transforms.dequantise import centre, dequantise, reduce_bits
from cascade.transforms.pyramid import halve_to
from cascade.utils.seeds import generator, uniform
from stages.labels import NO_LABEL


@dataclass
class Batch:
    """What the flow models (B, *shape), dequantised, clean low images or None, labels or None.

    Of a stage of chroma a low image is the luma, see `cascade.transforms.coding.condition`.
    """

    target: Tensor
    low: Tensor | None
    label: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: list[Any] = [
            None if t is None else t.to(device, non_blocking=True) for t in self.parts
        ]
        return Batch(*moved)

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU copies from while this process goes on."""
        pinned: list[Any] = [None if t is None else t.pin_memory() for t in self.parts]
        return Batch(*pinned)

    def split(self, parts: int) -> list[Batch]:
        """The batch in so many equal parts."""
        pieces = [[None] * parts if t is None else t.chunk(parts) for t in self.parts]
        return [Batch(*piece) for piece in zip(*pieces, strict=True)]

    @property
    def parts(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return self.target, self.low, self.label


class Batches:
    """One process's part of the batch of every step.

    Epoch e visits the images in an order drawn from (seed, e); step s takes the next
    ``batch_size`` of that endless list, of which process r of n takes the r-th of n equal parts.
    Flips and dequantisation noise are drawn from (seed, step, place in the whole batch), so the
    joined batch is the same for any number of processes. Batches hold labels where the stage has
    classes, or as ``labelled`` says.
    """

    def __init__(
        self,
        source: ImageSource,
        config: StageConfig,
        rank: int = 0,
        processes: int = 1,
        labelled: bool | None = None,
    ):
        self.source = source
        self.labelled = bool(config.model.classes) if labelled is None else labelled
        self.config = config
        self.coding = coding(config)
        self.each = config.train.batch_size // processes
        self.first = rank * self.each

    def __call__(self, step: int) -> Batch:
        """The batch of one step."""
        indices = self._of_step(step)
        return self._make(self.source.read(indices), indices, step, self.config.data.flip)

    def steps(
        self, first: int, last: int, workers: int = 0, pinned: bool = False
    ) -> Generator[Batch, None, None]:
        """The batches of steps ``first`` to ``last``, made by so many processes ahead of them.

        They are the same bits for any number of workers. Raises `InputError` for an image that
        cannot be read.
        """
        return made_ahead(self, range(first, last), workers, pinned)

    def images_of(self, step: int) -> list[int]:
        """Which images, by their place in the split, the whole batch of a step holds."""
        size = self.config.train.batch_size
        return self._indices(torch.arange(step * size, (step + 1) * size)).tolist()

    def without_some_labels(self, batch: Batch, step: int) -> Batch:
        """The batch of a step, ``train.label_dropout`` of its labels left out by chance."""
        share, label = self.config.train.label_dropout, batch.label
        if not share or label is None:
            return batch
        places = range(self.first, self.first + len(label))
        sources = [generator("label", self.config.seed, step, place) for place in places]
        left_out = torch.tensor([bool(uniform((), source) < share) for source in sources])
        return replace(batch, label=label.masked_fill(left_out, NO_LABEL))

    def fixed(self, count: int) -> Batch:
        """The first ``count`` images of the first epoch, not flipped: the same on every process."""
        indices = self._indices(torch.arange(min(count, len(self.source))))
        return self._make(self.source.read(indices), indices, -1, flip=False)

    def _make(self, images: Tensor, indices: Tensor, step: int, flip: bool) -> Batch:
        data, model = self.config.data, self.config.model
        first = 0 if step < 0 else self.first
        sources = [generator(self.config.seed, step, first + i) for i in range(len(images))]
        images = reduce_bits(images, data.bits)
        if flip:
            flipped = torch.tensor([uniform((), source) < 0.5 for source in sources])
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        high = halve_to(images, data.size, data.bits, model.pyramid)
        given = condition(self.config, high, sources)
        low = None if given is None else centre(given, bits=data.bits)
        values = self.coding.values(high)
        noise = torch.stack([uniform(values.shape[1:], source) for source in sources])
        known: Any = self.source.labels
        labels = known[indices] if self.labelled else None
        return Batch(dequantise(values, noise, data.bits), low, labels)

    def _of_step(self, step: int) -> Tensor:
        first = step * self.config.train.batch_size + self.first
        return self._indices(torch.arange(first, first + self.each))

    def _indices(self, positions: Tensor) -> Tensor:
        count = len(self.source)
        epochs, result = positions // count, torch.empty_like(positions)
        for epoch in epochs.unique().tolist():
            here = epochs == epoch
            result[here] = _order(self.config.seed, count, epoch)[positions[here] % count]
        return result


@lru_cache(maxsize=2)  # this epoch's and the next one's
def _order(seed: int, count: int, epoch: int) -> Tensor:
    """The order in which an epoch visits ``count`` images."""
    return torch.randperm(count, generator=generator(seed, "order", epoch))
