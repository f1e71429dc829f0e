"""The cascade: stages joined into one model of the full-resolution image."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from cascade.likelihood import Report, class_columns, compose, consistency
from cascade.manifest import check_order, stage_folders
from cascade.stage import Stage, load_stage, per_stage
from cascade.transforms.dequantise import expand_bits, log_volume, reduce_bits
from cascade.transforms.pyramid import halve_to, pyramid
from cascade.utils.non_finite import NONE_FINITE, NotFinite, check_some_finite, first_not_finite
from cascade.utils.seeds import sample_noise, whole_number
from stages import InputError, Remark

SAMPLES_JUDGED = 64  # fresh samples, for their consistency and how often they are clipped


@dataclass
class Draw:
    """Samples at every resolution, base first, uint8 (N, C, H, W), and which were finite (N,).

    ``clipped`` (N, stages) is the share of a stage's values that no image has, and were clipped;
    ``beyond`` (N, stages) how far the worst value lay outside the range, in whole ranges.
    """

    images: list[Tensor]
    labels: Tensor | None
    finite: Tensor
    clipped: Tensor
    beyond: Tensor


class Cascade:
    """A Glow and the SRFlow stages that follow it.

    Images are uint8 (N, C, H, W) on the CPU, labels int64 (N,); log-probabilities are of 8-bit
    images (``bits``-bit ones where the stages were trained so), float64 (N,), in nats.
    """

    def __init__(self, stages: Sequence[Stage], pyramid: str | None = None):
        if not stages:
            raise InputError("a cascade needs at least one stage")
        check_order([(stage.name, stage.config) for stage in stages], pyramid)
        for below, above in itertools.pairwise(stages):
            learned_from = above.record.previous
            if above.config.augment.sigma and learned_from != below.digest:
                warnings.warn(
                    f"{above.name} was trained on low images disturbed by another stage than "
                    f"{below.name} ({learned_from[:12]}, not {below.digest[:12]})",
                    Remark,
                    stacklevel=2,
                )
        self.stages = list(stages)
        self.classes = max(stage.classes for stage in stages)
        self.bits = stages[0].config.data.bits
        self.pyramid = stages[0].config.model.pyramid
        self.shape = stages[-1].shape

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of labels: numbers where training knew no names."""
        known = next((s.record.classes for s in self.stages if s.classes), [])
        return [*known, *map(str, range(len(known), self.classes))]

    @classmethod
    def load(
        cls,
        folder: str | Path,
        stages: Sequence[str] | None = None,
        device: str | torch.device = "cpu",
        dtype: str = "float32",
    ) -> Cascade:
        """Read a cascade folder, or a stage folder as a cascade of one.

        ``stages`` picks stage folders, base first, in place of those `cascade.yaml` lists.
        ``dtype`` is float32, float64, or bfloat16: float32 with the nets under bfloat16 autocast.
        Raises `InputError` where one is missing, or where they do not follow one another.
        """
        folders, pyramid = stage_folders(folder, stages)
        return cls([load_stage(path, device, dtype) for path in folders], pyramid)

    def tell(self, sigma: float) -> None:
        """Tell stages trained with ``augment.condition`` by how much low images are disturbed.

        Until then they are told that it is 0. Raises `InputError` where no stage listens, and for
        what is no deviation.
        """
        if not 0 <= sigma < math.inf:
            raise InputError(f"a sigma is a finite number not below 0, got {sigma}")
        listening = [stage for stage in self.stages if stage.config.augment.condition]
        if not listening:
            raise InputError("no stage of this cascade was trained with augment.condition=true")
        for stage in listening:
            stage.sigma = sigma

    def sample(
        self,
        num: int,
        labels: Tensor | Sequence[int] | None = None,
        temperature: float | Sequence[float] = 1.0,
        seed: int = 0,
    ) -> Tensor:
        """Draw ``num`` images, uint8 (num, C, H, W); see `draw`.

        Raises `InputError` where none is finite, which `draw` leaves to whoever calls it.
        """
        draw = self.draw(num, labels, temperature, seed)
        if not draw.finite.any():
            raise InputError(NONE_FINITE)
        return draw.images[-1]

    @torch.no_grad()
    def draw(
        self,
        num: int,
        labels: Tensor | Sequence[int] | None = None,
        temperature: float | Sequence[float] = 1.0,
        seed: int = 0,
        first: int = 0,
    ) -> Draw:
        """Draw samples number ``first`` to ``first + num`` of a seed, at every resolution.

        ``temperature`` scales each stage's noise, one number for all stages or one a stage.
        Without ``labels`` a conditional cascade takes the classes in turn. A sample depends on its
        seed, number, label and temperature alone.
        """
        if num < 1:
            raise InputError(f"draw at least one sample, not {num}")
        seed = whole_number(seed, "seed")
        temperatures = per_stage(temperature, len(self.stages))
        if labels is None and self.classes:
            labels = torch.arange(first, first + num) % self.classes
        labels = self._labels(labels, num)
        low, images, finite = None, [], torch.ones(num, dtype=torch.bool)
        clipped, beyond = torch.zeros(2, num, len(self.stages), dtype=torch.float64)
        for i, (stage, scale) in enumerate(zip(self.stages, temperatures, strict=True)):
            noise = scale * sample_noise(stage.flow.shape, seed, i, first, num)
            y = stage.run(stage.flow.sample, noise, low, labels)
            finite &= y.flatten(1).isfinite().all(1)
            beyond[:, i] = stage.coding.beyond(y)
            low, changed = stage.coding.image(y, low)
            clipped[:, i] = changed / noise[0].numel()
            images.append(expand_bits(low, self.bits))
        return Draw(images, labels, finite, clipped, beyond)

    def log_prob(
        self, images: Tensor, labels: Tensor | Sequence[int] | None = None, seed: int = 0
    ) -> Tensor:
        """log P(image) in nats, (N,): the composed figure, see `Report.statement`.

        Without ``labels`` a conditional cascade sums over classes, each equally likely.
        """
        return self.score(images, labels, seed=seed)[0].sum(1)

    def likelihood(
        self,
        images: Tensor,
        labels: Tensor | Sequence[int] | None = None,
        samples: int = 1,
        seed: int = 0,
    ) -> Report:
        """Per-stage nats, bits/dim, and the consistency of the cascade's samples, as a `Report`.

        ``samples`` importance samples tighten the dequantisation bound of every stage.
        """
        nats, posterior = self.score(images, labels, samples, seed)
        return self.report(nats, posterior, seed)

    def fit(self, images: Tensor) -> Tensor:
        """Larger uint8 images (N, C, H, W) brought to the cascade's size by its own pyramid.

        Reduced to the cascade's bits first, as in training. Raises `InputError` for other sizes.
        """
        reduced = reduce_bits(images, self.bits)
        halved = halve_to(reduced, self.shape[1], self.bits, self.pyramid)
        return expand_bits(halved, self.bits)

    @torch.no_grad()
    def score(
        self,
        images: Tensor,
        labels: Tensor | Sequence[int] | None = None,
        samples: int = 1,
        seed: int = 0,
        prior: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Each stage's nats (N, stages), and log p(y | image) (N, classes) where marginalised.

        ``prior`` (classes,) holds the classes' probabilities, equal ones if None. A likelihood
        that is not finite raises `NotFinite`, which names image, stage and layer.
        """
        labels = self._labels(labels, len(images))
        columns, low = [], None
        for i, (stage, high) in enumerate(zip(self.stages, self.levels(images), strict=True)):
            density = partial(stage.run, stage.flow.class_log_probs, low=low)
            dequantised = partial(stage.coding.dequantise, high, seed, i)
            found = class_columns(density, dequantised, samples, self.bits)
            for row in (~found.isfinite().all(1)).nonzero().flatten().tolist():
                raise NotFinite(row, stage.name, self._layer_at_fault(stage, high, low, row))
            columns.append(found)
            low = high
        return compose(columns, labels, prior)

    def report(self, nats: Tensor, posterior: Tensor | None, seed: int = 0) -> Report:
        """The `Report` of scores that `score` gave, with the consistency of fresh samples."""
        draw = self.draw(SAMPLES_JUDGED, seed=seed)
        images = [reduce_bits(image, self.bits) for image in draw.images]
        return Report(
            [stage.name for stage in self.stages],
            [math.prod(stage.flow.shape) for stage in self.stages],
            math.prod(self.shape),
            nats,
            posterior,
            consistency(images, self.bits, self.pyramid),
            draw.clipped,
            self.pyramid,
            self.bits,
        )

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Tensor | Sequence[int] | None = None) -> list[Tensor]:
        """Every stage's noise (N, *flow.shape), base first, of the images' bin centres."""
        labels = self.needed_labels(labels, len(images))
        noises, low = [], None
        for stage, high in zip(self.stages, self.levels(images), strict=True):
            y = stage.coding.centre(high)
            noises.append(stage.run(stage.flow.noise_of, y, low, labels))
            low = high
        return noises

    @torch.no_grad()
    def decode(
        self, noises: Sequence[Tensor], labels: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        """Images from every stage's noise, the inverse of `encode`.

        ``decode(encode(x, y), y) == x`` for images of the kind that the stages were trained on. Of
        others (noise, or digits black on white) float32 may round some away where a stage stretches
        a lot; float64 does not. `cascade.evaluation.layer_checks.check_cascade` says it of the
        images at hand.
        """
        return self.decode_levels(noises, labels)[-1]

    @torch.no_grad()
    def decode_levels(
        self, noises: Sequence[Tensor], labels: Tensor | Sequence[int] | None = None
    ) -> list[Tensor]:
        """Every stage's image from every stage's noise, base first, uint8 (N, C, h, w).

        Raises `InputError` where no image of a stage is finite.
        """
        return [expand_bits(image, self.bits) for _, image in self._climb(noises, labels)]

    @torch.no_grad()
    def drawn_log_prob(
        self, noises: Sequence[Tensor], labels: Tensor | Sequence[int] | None = None
    ) -> Tensor:
        """log-density in nats, float64 (N,), of the very values that every stage's noise makes.

        In units of probabilities of images, and summed over classes, like `log_prob`. That one
        would round the values first and dequantise them again, which draws a value just outside
        an image's bins anew across the neighbouring one, where the density may be far lower.
        """
        columns, low = [], None
        for stage, (y, image) in zip(self.stages, self._climb(noises, labels), strict=True):
            density = stage.run(stage.flow.class_log_probs, y, low).double()
            columns.append(density - log_volume(y[0].numel(), self.bits))
            low = image
        return compose(columns, None)[0].sum(1)

    def _climb(
        self, noises: Sequence[Tensor], labels: Tensor | Sequence[int] | None
    ) -> list[tuple[Tensor, Tensor]]:
        """What every stage makes of its noise, base first: values y, and the integers of its image.

        Raises `InputError` where no image of a stage is finite.
        """
        shapes = [stage.flow.shape for stage in self.stages]
        if [tuple(noise.shape[1:]) for noise in noises] != shapes or len({*map(len, noises)}) != 1:
            raise InputError(f"decode takes a noise a stage, of shapes (N, *shape): {shapes}")
        labels = self.needed_labels(labels, len(noises[0]))
        low, found = None, []
        for stage, noise in zip(self.stages, noises, strict=True):
            y = stage.run(stage.flow.decode, noise, low, labels)
            check_some_finite(y)
            low, _ = stage.coding.image(y, low)
            found.append((y, low))
        return found

    def _layer_at_fault(self, stage: Stage, high: Tensor, low: Tensor | None, row: int) -> str:
        y = stage.coding.centre(high[row : row + 1])
        one_low = None if low is None else low[row : row + 1]
        with first_not_finite(stage.flow) as layer:
            stage.run(stage.flow.class_log_probs, y, one_low)
        return layer()

    def levels(self, images: Tensor) -> list[Tensor]:
        """Every stage's image of full images (N, C, H, W), base first, in the cascade's bits."""
        if not isinstance(images, Tensor):
            raise InputError(f"images are a torch.Tensor, got {type(images).__name__}")
        wrong = images.dtype != torch.uint8 or tuple(images.shape[1:]) != tuple(self.shape)
        if wrong or not len(images):
            raise InputError(
                f"this cascade takes uint8 images (N, {', '.join(map(str, self.shape))}), "
                f"got {images.dtype} {tuple(images.shape)}"
            )
        reduced = reduce_bits(images.cpu(), self.bits)
        return pyramid(reduced, len(self.stages), self.bits, self.pyramid)

    def _labels(self, labels: Tensor | Sequence[int] | None, count: int) -> Tensor | None:
        if labels is None:
            return None
        if not self.classes:
            raise InputError("labels were given, but no stage of this cascade uses them")
        try:
            given = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError):
            raise InputError(f"labels are whole numbers, one an image, got {labels!r}") from None
        if given.numel() and (given.is_floating_point() or given.dtype == torch.bool):
            raise InputError(f"labels are whole numbers, got {given.dtype}")
        labels = given.to(torch.int64)
        if labels.shape != (count,):
            raise InputError(f"{count} images need {count} labels, got {tuple(labels.shape)}")
        if count and not (labels.min() >= 0 and labels.max() < self.classes):
            found = f"{int(labels.min())}..{int(labels.max())}"
            raise InputError(f"labels must lie in 0..{self.classes - 1}, got {found}")
        return labels

    def needed_labels(self, labels: Tensor | Sequence[int] | None, count: int) -> Tensor | None:
        """Labels int64 (count,), None where no stage uses them; `InputError` where they miss."""
        if labels is None and self.classes:
            raise InputError("this cascade is class-conditional: give labels to encode or decode")
        return self._labels(labels, count)
