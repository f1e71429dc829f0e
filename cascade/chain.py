"""The cascade: stages joined into one model of the full-resolution image."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cascade.draws import Draw, Generated, Given
from cascade.labels import Labels, check_guidance, checked_labels
from cascade.likelihood import Report, class_columns, compose
from cascade.manifest import check_order
from cascade.pretrained import Pretrained
from cascade.sample_checks import SampleCheck, consistency
from cascade.stage import Stage, StageList, per_stage
from cascade.transforms.dequantise import expand_bits, log_volume, reduce_bits
from cascade.transforms.pyramid import halve_to
from cascade.utils.non_finite import NONE_FINITE, NotFinite, check_some_finite, first_not_finite
from cascade.utils.seeds import sample_noise, whole_number
from stages import InputError, InputWarning
from stages.labels import NO_LABEL, guided


class Cascade(Pretrained):
    """A Glow and the SRFlow stages that follow it: a model of full-resolution images.

    A stage of chroma given luma, or of holes given the pixels around, is a model of its own: it
    scores and encodes the rest of images of which that part is given, and draws nothing without it.

    Images are uint8 (N, C, H, W) on the CPU, labels int64 (N,); log-probabilities are of 8-bit
    images (``bits``-bit ones where the stages were trained so), float64 (N,), in nats. The nets run
    on the device that the module is moved to.

    Example:
        A trained one is read by ``Cascade.from_pretrained(name)``; this one has fresh weights.

        >>> from cascade.building import build
        >>> from cascade.config import load_config
        >>> config = load_config("mnist5k-haar/glow8", ["model.steps=1", "model.classes=0"])
        >>> cascade = Cascade([Stage("glow8", config, build(config).eval())])
        >>> images = cascade.sample(2, temperature=0.9, seed=0)
        >>> images.shape, images.dtype
        (torch.Size([2, 1, 8, 8]), torch.uint8)
        >>> cascade.likelihood(images).nats.shape
        torch.Size([2, 1])

    Args:
        stages: the stages, base first; each doubles the size of the one before.
        pyramid: where low images come from, if something else than the stages names it.

    Raises:
        InputError: the stages do not follow one another, or there are none.
    """

    def __init__(self, stages: Sequence[Stage], pyramid: str | None = None):
        super().__init__()
        if not stages:
            raise InputError("a cascade needs at least one stage")
        check_order([(stage.name, stage.config) for stage in stages], pyramid)
        for below, above in itertools.pairwise(stages):
            learned_from = above.record.previous
            if above.config.augment.sigma and learned_from != below.digest:
                warnings.warn(
                    f"{above.name} was trained on low images disturbed by another stage than "
                    f"{below.name} ({learned_from[:12]}, not {below.digest[:12]})",
                    InputWarning,
                    stacklevel=2,
                )
        self.stages = StageList(stages)
        self.training = any(stage.training for stage in stages)
        self.classes = max(stage.classes for stage in stages)
        self.bits = stages[0].config.data.bits
        self.pyramid = stages[0].config.model.pyramid
        self.shape = stages[-1].shape
        self.given = stages[0].given

    @property
    def bounded(self) -> bool:
        """Whether all stages make nothing but values that images have, so that none is clipped."""
        return all(stage.flow.bounded for stage in self.stages)

    @property
    def label_optional(self) -> bool:
        """Whether it has classes, and all stages that do learned to do without labels."""
        optional = [stage.flow.label_optional for stage in self.stages if stage.classes]
        return bool(optional) and all(optional)

    @property
    def chunk(self) -> int:
        """Images that its nets see at once; last bits depend on it, and on the device."""
        return self.stages[0].at_once

    @property
    def named_classes(self) -> list[str]:
        """Names of the classes that training knew, in the order of labels; [] if it knew none."""
        return next((stage.record.classes for stage in self.stages if stage.classes), [])

    @property
    def class_names(self) -> list[str]:
        """Names of all classes, in the order of labels: numbers where training knew no names."""
        return next((stage.class_names for stage in self.stages if stage.classes), [])

    def given_sigma(self, sigma: float) -> Cascade:
        """The same cascade, whose stages are told that low images are disturbed by ``sigma``.

        Stages trained with ``augment.condition`` take it as a part of their condition; as loaded
        they are told 0. The weights are shared.

        Raises:
            InputError: no stage was trained so, or ``sigma`` is no deviation.
        """
        if not 0 <= sigma < math.inf:
            raise InputError(f"a sigma is a finite number not below 0, got {sigma}")
        if not any(stage.config.augment.condition for stage in self.stages):
            raise InputError("no stage of this cascade was trained with augment.condition=true")
        stages = [
            stage.replace(sigma=sigma) if stage.config.augment.condition else stage
            for stage in self.stages
        ]
        return Cascade(stages, self.pyramid)

    def compiled(self, **options: Any) -> Cascade:
        """The same cascade, whose stages' functions `torch.compile` makes; it shares the weights.

        What is compiled is what a stage's flow does with a chunk of images: samples, densities,
        noise. The first call of each takes a minute. ``options`` replace those of
        `cascade.utils.compiling.compile_options`.
        """
        return Cascade([stage.replace(compiling=options) for stage in self.stages], self.pyramid)

    def sample(
        self,
        num: int,
        labels: Labels = None,
        temperature: float | Sequence[float] = 1.0,
        seed: int | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """Draw images, uint8 (num, C, H, W).

        Args:
            num: how many.
            labels: (num,) classes; without them a conditional cascade takes the classes in turn.
            temperature: scales the noise, one number for all stages or one a stage.
            seed: the same seed gives the same images; without one, torch's generator draws it.
            guidance: what a class adds is multiplied by this: 0 draws without labels, above 1 goes
                beyond what training saw, see `stages.labels`. Other than 1 it needs stages trained
                with ``train.label_dropout``.

        Raises:
            InputError: no sample is finite, or an argument is not as described.
        """
        if seed is None:
            seed = int(torch.randint(2**62, ()).item())
        draw = self.draw(num, labels, temperature, seed, guidance=guidance)
        if not draw.finite.any():
            raise InputError(NONE_FINITE)
        return draw.images[-1]

    @torch.no_grad()
    def draw(
        self,
        num: int,
        labels: Labels = None,
        temperature: float | Sequence[float] = 1.0,
        seed: int = 0,
        first: int = 0,
        guidance: float = 1.0,
    ) -> Draw:
        """Draw samples number ``first`` to ``first + num`` of a seed, at every resolution.

        The arguments are those of `sample`. A sample depends on its seed, number, label,
        temperature and guidance alone.
        """
        self.check_draws()
        if num < 1:
            raise InputError(f"draw at least one sample, not {num}")
        seed = whole_number(seed, "seed")
        temperatures = per_stage(temperature, len(self.stages))
        if labels is None and self.classes:
            labels = torch.arange(first, first + num) % self.classes
        self.check_guidance(guidance)
        labels = given = self._labels(labels, num)
        if labels is not None and guidance != 1:
            given = guided(labels, self.classes, guidance)

        def drawn(i: int, stage: Stage, low: Tensor | None) -> Tensor:
            noise = temperatures[i] * sample_noise(stage.flow.shape, seed, i, first, num)
            return stage.run(stage.flow.sample, noise, low, given)

        images, finite = [], torch.ones(num, dtype=torch.bool)
        clipped, out_of_range = torch.zeros(2, num, len(self.stages), dtype=torch.float64)
        for i, stage, y, image, changed in self.generate(drawn):
            finite &= y.flatten(1).isfinite().all(1)
            out_of_range[:, i] = stage.coding.out_of_range(y)
            clipped[:, i] = changed / y[0].numel()
            images.append(expand_bits(image, self.bits))
        return Draw(images, labels, finite, clipped, out_of_range)

    def check_draws(self) -> None:
        """Raise `InputError` where images are only drawn given a part of them."""
        if self.given:
            kind = self.stages[0].config.model.kind
            raise InputError(
                f"{self.stages[0].name} draws nothing without {self.given}: see csrflow {kind}"
            )

    def check_guidance(self, strength: float) -> None:
        """Raise `InputError` where what classes add cannot be multiplied by ``strength``."""
        check_guidance(strength, self.classes, self.label_optional)

    def log_prob(self, images: Tensor, labels: Labels = None, seed: int = 0) -> Tensor:
        """log P(image) in nats, float64 (N,): the composed figure, see `Report.statement`.

        Without ``labels`` a conditional cascade sums over classes, each equally likely; labels −1
        ask stages trained with ``train.label_dropout`` for what they make of images without labels.
        ``seed`` is that of the dequantisation noise.
        """
        return self.stage_log_probs(images, labels, seed=seed)[0].sum(1)

    def likelihood(
        self, images: Tensor, labels: Labels = None, samples: int = 1, seed: int = 0
    ) -> Report:
        """Per-stage nats and bits/dim of images, as a `Report`.

        Args:
            images: uint8 (N, C, H, W).
            labels: (N,) classes, None to sum over them; all −1 to do without, see `log_prob`.
            samples: importance samples, which tighten the dequantisation bound of every stage.
            seed: of the dequantisation noise.

        Raises:
            InputError: images or labels are not the cascade's.
            NotFinite: a likelihood is not finite; it names image, stage and layer.
        """
        return self.report(*self.stage_log_probs(images, labels, samples, seed))

    def resize(self, images: Tensor) -> Tensor:
        """Larger uint8 images (N, C, H, W) brought to the cascade's size by its own pyramid.

        Reduced to the cascade's bits first, as in training. Raises `InputError` for other sizes.
        """
        if not isinstance(images, Tensor) or images.dtype != torch.uint8 or images.ndim != 4:
            raise InputError("images are a uint8 tensor (N, C, H, W)")
        reduced = reduce_bits(images, self.bits)
        halved = halve_to(reduced, self.shape[1], self.bits, self.pyramid)
        return expand_bits(halved, self.bits)

    @torch.no_grad()
    def stage_log_probs(
        self,
        images: Tensor,
        labels: Labels = None,
        samples: int = 1,
        seed: int = 0,
        prior: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Each stage's nats (N, stages), and log p(y | image) (N, classes) where marginalised.

        ``prior`` (classes,) holds the classes' probabilities, equal ones if None; the other
        arguments are those of `likelihood`.
        """
        if samples < 1:
            raise InputError(f"take at least one dequantisation sample, not {samples}")
        labels, seed = self._labels(labels, len(images)), whole_number(seed, "seed")
        missing = torch.zeros(1) if labels is None else labels == NO_LABEL
        unlabelled = bool(missing.any())
        if unlabelled and not missing.all():
            raise InputError(f"give every image a label, or {NO_LABEL} to all of them")
        if unlabelled and prior is not None:
            raise InputError("classes have no part where labels are left out: give no prior")
        columns = []
        for i, stage, high, low in self.climb(images):
            flow = stage.flow
            log_probs = flow.unlabelled_log_probs if unlabelled else flow.class_log_probs
            density = partial(stage.run, log_probs, low=low)
            dequantised = partial(stage.coding.dequantise, high, seed, i)
            draws = 1 if flow.exact else samples
            result = class_columns(density, dequantised, draws, self.bits)
            for row in (~result.isfinite().all(1)).nonzero().flatten().tolist():
                raise NotFinite(row, stage.name, self._layer_at_fault(stage, high, low, row))
            columns.append(result)
        return compose(columns, None if unlabelled else labels, prior)

    def report(self, nats: Tensor, posterior: Tensor | None = None) -> Report:
        """The `Report` of what `stage_log_probs` gave."""
        values = [math.prod(stage.flow.shape) for stage in self.stages]
        shares = [stage.config.share for stage in self.stages]
        sizes = [round(count * share) for count, share in zip(values, shares, strict=True)]
        return Report(
            names=[stage.name for stage in self.stages],
            sizes=sizes,
            dimensions=sum(sizes) if self.given else math.prod(self.shape),
            nats=nats,
            posterior=posterior,
            pyramid=self.pyramid,
            bits=self.bits,
            dequantised=[stage.name for stage in self.stages if not stage.flow.exact],
            bounded=self.bounded,
            given=self.given,
            values=values,
        )

    def check_samples(self, num: int = 64, seed: int = 0) -> SampleCheck:
        """Draw samples, and measure how far they keep to their low images and are clipped.

        None are drawn by a stage that is given a part of the image.
        """
        if self.given:
            names = [stage.name for stage in self.stages]
            return SampleCheck(names, [], torch.zeros(0, len(names)))
        draw = self.draw(num, seed=seed)
        images = [reduce_bits(image, self.bits) for image in draw.images]
        result = consistency(images, self.stages)
        return SampleCheck([stage.name for stage in self.stages], result, draw.clipped)

    @torch.no_grad()
    def encode(self, images: Tensor, labels: Labels = None) -> list[Tensor]:
        """Every stage's noise (N, *flow.shape), base first, of the images' bin centres."""
        labels = self.needed_labels(labels, len(images))
        return [
            stage.run(stage.flow.noise_of, stage.coding.centre(high), low, labels)
            for _, stage, high, low in self.climb(images)
        ]

    def decode(self, noises: Sequence[Tensor], labels: Labels = None) -> Tensor:
        """Images from every stage's noise, the inverse of `encode`.

        ``decode(encode(x, y), y) == x`` for images of the kind that the stages were trained on. Of
        others (noise, or digits black on white) float32 may round some away where a stage stretches
        a lot; float64 does not. `cascade.evaluation.layer_checks.check_cascade` says it of the
        images at hand.
        """
        return self.decode_levels(noises, labels)[-1]

    @torch.no_grad()
    def decode_levels(self, noises: Sequence[Tensor], labels: Labels = None) -> list[Tensor]:
        """Every stage's image from every stage's noise, base first, uint8 (N, C, h, w).

        Raises `InputError` where no image of a stage is finite.
        """
        decoded = self._decoded(noises, labels)
        return [expand_bits(result.image, self.bits) for result in decoded]

    @torch.no_grad()
    def drawn_log_prob(self, noises: Sequence[Tensor], labels: Labels = None) -> Tensor:
        """log-density in nats, float64 (N,), of the very values that every stage's noise makes.

        In units of probabilities of images, and summed over classes, like `log_prob`. That one
        would round the values first and dequantise them again, which draws a value just outside
        an image's bins again across the neighbouring one, where the density may be far lower.
        """
        columns, low = [], None
        for _, stage, y, image, _ in self._decoded(noises, labels):
            density = stage.run(stage.flow.class_log_probs, y, low).double()
            columns.append(density - log_volume(y[0].numel(), self.bits))
            low = image
        return compose(columns, None)[0].sum(1)

    def _decoded(self, noises: Sequence[Tensor], labels: Labels) -> Iterator[Generated]:
        self.check_draws()
        shapes = [tuple(stage.flow.shape) for stage in self.stages]
        if [tuple(noise.shape[1:]) for noise in noises] != shapes or len({*map(len, noises)}) != 1:
            raise InputError(f"decode takes a noise a stage, of shapes (N, *shape): {shapes}")
        labels = self.needed_labels(labels, len(noises[0]))

        def decoded(i: int, stage: Stage, low: Tensor | None) -> Tensor:
            y = stage.run(stage.flow.decode, noises[i], low, labels)
            check_some_finite(y)
            return y

        return self.generate(decoded)

    def climb(self, images: Tensor) -> Iterator[Given]:
        """Full images, seen stage by stage, base first, in the cascade's bits."""
        levels = self.levels(images)
        low = self.stages[0].condition(levels[0])
        for i, (stage, high) in enumerate(zip(self.stages, levels, strict=True)):
            yield Given(i, stage, high, low)
            low = high

    def generate(
        self,
        values: Callable[[int, Stage, Tensor | None], Tensor],
        low: Tensor | None = None,
        start: int = 0,
    ) -> Iterator[Generated]:
        """Images made stage by stage, base first, from stage number ``start`` on.

        ``values(i, stage, low)`` gives the values that a stage makes given low integer images, as
        many for each of them as it likes, those of one side by side. ``low`` are those of the first
        stage, None for the base.
        """
        for i, stage in list(enumerate(self.stages))[start:]:
            y = values(i, stage, low)
            if low is not None:
                low = low.repeat_interleave(len(y) // len(low), 0)
            low, clipped = stage.coding.image(y, low)
            yield Generated(i, stage, y, low, clipped)

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
        levels = [reduced]
        for stage in reversed(self.stages[1:]):
            levels.append(stage.lower(levels[-1]))
        return levels[::-1]

    def _labels(self, labels: Labels, count: int) -> Tensor | None:
        if labels is None:
            return None
        if not self.classes:
            raise InputError("labels were given, but no stage of this cascade uses them")
        return checked_labels(labels, count, self.class_names, self.label_optional)

    def needed_labels(self, labels: Labels, count: int) -> Tensor | None:
        """Labels int64 (count,), None where no stage uses them; `InputError` where they miss."""
        if labels is None and self.classes:
            raise InputError("this cascade is class-conditional: give labels to encode or decode")
        return self._labels(labels, count)
