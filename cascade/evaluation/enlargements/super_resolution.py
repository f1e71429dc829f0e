"""Scores of super-resolution on real pairs: an image, and the same image made small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor

from cascade.chain import Cascade
from cascade.data.sources import ImageSource
from cascade.evaluation.enlargements.calibration import Calibration, calibration, tallies
from cascade.evaluation.enlargements.ensembles import versions
from cascade.evaluation.enlargements.image_metrics import (
    SMALLEST,
    bicubic,
    mean_squares,
    psnr,
    ssim,
)
from cascade.evaluation.enlargements.no_reference import Judge
from cascade.evaluation.features import SCRIPT_FAULTS, load_script, reason_of
from cascade.evaluation.sample_quality import Advance, real_levels
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.transforms.pyramid import halve_to
from cascade.utils.chunks import CHUNK, chunk_of, in_chunks
from cascade.utils.distributed import spread
from stages import InputError


@dataclass
class Perceptual:
    """LPIPS, or another distance of two images, by a TorchScript net of the user's.

    The net takes two float32 (B, 3, H, W) of values −1..1 and gives B numbers.
    """

    name: str
    digest: str
    net: Callable[[Tensor, Tensor], Tensor]
    device: str | torch.device
    chunk: int = CHUNK  # pairs that it sees at once

    @classmethod
    def load(
        cls, file: str | Path, device: str | torch.device = "cpu", chunk: int | None = None
    ) -> Perceptual:
        """Read the net from a file; `InputError` where it is no TorchScript."""
        net, digest = load_script(file, device)
        return cls(Path(file).name, digest, net, device, chunk or chunk_of(torch.device(device)))

    @torch.no_grad()
    def __call__(self, one: Tensor, two: Tensor) -> Tensor:
        """Distances (N,) of images uint8 (N, C, H, W)."""
        try:
            with torch.jit.optimized_execution(False):
                pair = self._seen(one), self._seen(two)
                result = in_chunks(self._checked, *pair, size=self.chunk).cpu()
        except SCRIPT_FAULTS as error:
            raise InputError(f"{self.name} cannot compare two images: {reason_of(error)}") from None
        if not result.isfinite().all():
            raise InputError(f"{self.name} gave distances that are not finite")
        return result.double()

    def _checked(self, one: Tensor, two: Tensor) -> Tensor:
        """The distances of a chunk, (B,); `InputError` unless they are one number a pair."""
        result = self.net(one, two)
        if not isinstance(result, Tensor) or result.numel() != len(one) or result.is_complex():
            what = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise InputError(f"{self.name} must give a number a pair: of {len(one)} it gave {what}")
        return result.flatten()

    def _seen(self, images: Tensor) -> Tensor:
        return images.to(self.device).expand(-1, 3, -1, -1).float() / 127.5 - 1


@dataclass(frozen=True)
class PairScores:
    """Mean scores by whose images they are of, and how sure the samples were, where asked for."""

    scores: dict[str, dict[str, float]]
    calibration: Calibration | None = None


def pair_scores(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    factor: int,
    samples: int = 1,
    temperature: float | Sequence[float] = 1.0,
    seed: int = 0,
    perceptual: Perceptual | None = None,
    judges: Sequence[Judge] = (),
    calibrated: bool = False,
    state: PartialState | None = None,
    advance: Advance = lambda done: None,
) -> PairScores:
    """Mean scores of the ``cascade`` and of ``bicubic`` interpolation.

    Each image at ``indices`` is made ``factor`` times smaller by the cascade's pyramid and raised
    again ``samples`` times, with noise of its own. Figures of samples are means over samples and
    images. ``psnr`` in dB and ``ssim`` are beside the true image; ``lr_psnr`` beside the low image,
    from the mean squared error over all images (a single image may be exact); ``diversity`` is the
    pixels' standard deviation over an image's samples, in grey levels. ``judges`` score images
    alone, the true ones, ``real``, as well. ``calibrated`` adds how sure the samples are, see
    `calibration`, which takes two of an image.
    """
    start = _start(cascade, factor)
    if calibrated and samples < 2:
        raise InputError("how sure samples are takes two or more of each image: raise --samples")

    def rows_of(first: int, number: int) -> list[Tensor]:
        rows = indices[first : first + number]
        true = real_levels(cascade, source, rows)[-1]
        low = _halved(cascade, true, cascade.stages[start].shape[-1])
        known: Any = source.labels
        labels = known[rows] if cascade.classes else None
        made = versions(cascade, low, samples, labels, temperature, seed, first * samples)
        drawn, raised = made[-1].transpose(0, 1), bicubic(low, factor)
        ours = [_beside(cascade, image, true, low, perceptual, judges) for image in drawn]
        theirs = _beside(cascade, raised, true, low, perceptual, judges)
        alone = [_judged(true, judges)] if judges else []
        numbers = range(first, first + number)
        tables = tallies(true, drawn, raised, seed, numbers) if calibrated else []
        return [torch.stack(ours).mean(0), theirs, _diversity(drawn), *alone, *tables]

    ours, theirs, diversity, *rest = spread(rows_of, len(indices), cascade.chunk, state, advance)
    spread_out = {"diversity": diversity.mean().item()} if samples > 1 else {}
    scores = {
        "cascade": _means(ours, perceptual, judges) | spread_out,
        "bicubic": _means(theirs, perceptual, judges),
    }
    if judges:
        scores["real"] = _by_judge(rest.pop(0), judges)
    return PairScores(scores, calibration(*rest) if calibrated else None)


def _start(cascade: Cascade, factor: int) -> int:
    """The place of the stage whose images are ``factor`` times smaller than the cascade's."""
    largest = 2 ** (len(cascade.stages) - 1)
    if factor < 2 or factor & (factor - 1) or factor > largest:
        raise InputError(
            f"a cascade of {len(cascade.stages)} stages raises images by a power of two up to "
            f"{largest}, not by {factor}"
        )
    if cascade.shape[1] < SMALLEST:
        raise InputError(f"SSIM needs images of {SMALLEST}x{SMALLEST} or more")
    return len(cascade.stages) - factor.bit_length()


def _beside(
    cascade: Cascade,
    image: Tensor,
    true: Tensor,
    low: Tensor,
    perceptual: Perceptual | None,
    judges: Sequence[Judge],
) -> Tensor:
    """Columns PSNR, SSIM, squared error in the low image, LPIPS by a net if any, and judges'."""
    squares = mean_squares(_halved(cascade, image, low.shape[-1]), low)
    columns = [psnr(mean_squares(image, true)), ssim(image, true), squares]
    if perceptual:
        columns.append(perceptual(image, true))
    return torch.cat([torch.stack(columns, 1), _judged(image, judges)], 1)


def _halved(cascade: Cascade, image: Tensor, size: int) -> Tensor:
    """Images at a smaller size, by the cascade's pyramid, whatever low images a stage makes."""
    bits = cascade.bits
    halved = halve_to(reduce_bits(image, bits), size, bits, cascade.pyramid)
    return expand_bits(halved, bits)


def _judged(images: Tensor, judges: Sequence[Judge]) -> Tensor:
    """A column a judge, of images (N, C, H, W)."""
    return torch.tensor(
        [[judge.score(image) for judge in judges] for image in images], dtype=torch.float64
    )


def _diversity(drawn: Tensor) -> Tensor:
    """Mean over pixels of the standard deviation over samples (S, N, C, H, W), (N,)."""
    if len(drawn) == 1:
        return torch.zeros(drawn.shape[1], dtype=torch.float64)
    return drawn.double().std(0).flatten(1).mean(1)


def _means(
    columns: Tensor, perceptual: Perceptual | None, judges: Sequence[Judge]
) -> dict[str, float]:
    means = columns.mean(0)
    result = {"psnr": means[0].item(), "ssim": means[1].item(), "lr_psnr": psnr(means[2]).item()}
    result |= {"lpips": means[3].item()} if perceptual else {}
    return result | _by_judge(columns[:, len(result) :], judges)


def _by_judge(columns: Tensor, judges: Sequence[Judge]) -> dict[str, float]:
    means = columns.mean(0).tolist()
    return {judge.key: mean for judge, mean in zip(judges, means, strict=True)}
