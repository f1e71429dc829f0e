"""Scores of a cascade's samples beside real images, at the resolution of each stage."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import Tensor

from cascade.chain import Cascade
from cascade.data.sources import ImageSource
from cascade.evaluation.features import FeatureNet
from cascade.sample_checks import low_distances
from cascade.transforms.dequantise import expand_bits, reduce_bits
from cascade.utils.distributed import spread
from cascade.utils.non_finite import NONE_FINITE
from cascade.utils.tensors import read_tensors, write_tensors
from stages import InputError

Advance = Callable[[int], None]


@dataclass
class Real:
    """Real images' features (N, F) by place of the stage, and the SHA-256 of their pixels."""

    features: dict[int, Tensor]
    digests: dict[int, str]


@dataclass
class Samples:
    """Samples' features (N, F) by place of the stage, and what else was seen of them.

    ``failed`` of them were not finite; ``consistency`` is each later stage's mean
    |D(sample) − low| in grey levels of the cascade's bits.
    """

    features: dict[int, Tensor]
    failed: int
    consistency: list[float]


def real_levels(cascade: Cascade, source: ImageSource, indices: Tensor) -> list[Tensor]:
    """The images at ``indices`` at every stage's resolution, uint8 (N, C, H, W), base first."""
    levels = cascade.levels(cascade.resize(source.read(indices)))
    return [expand_bits(level, cascade.bits) for level in levels]


def real_features(
    cascade: Cascade,
    source: ImageSource,
    indices: Tensor,
    net: FeatureNet,
    levels: Sequence[int],
    folder: str | Path | None = None,
    state: PartialState | None = None,
    advance: Advance = lambda done: None,
) -> Real:
    """Features of the images at ``indices`` at some stages' resolutions.

    In ``folder`` they are kept, by the SHA-256 of the pixels, the net, its chunk and clean-fid's
    mode, and are read from there where they are known. Features are for the main process alone.
    """

    def images(first: int, number: int) -> list[Tensor]:
        result = real_levels(cascade, source, indices[first : first + number])
        return [result[level] for level in levels]

    digests = _digests(images, len(indices), cascade.chunk, len(levels))
    files: list[Any] = [_file(folder, digest, net) for digest in digests]
    missing = [[i for i, file in enumerate(files) if not (file and file.is_file())]]
    if state and state.num_processes > 1:
        broadcast_object_list(missing)  # or a process that sees a new file waits for no one

    def rows_of(first: int, number: int) -> list[Tensor]:
        result = images(first, number)
        return [net(result[i]) for i in missing[0]]

    tables = spread(rows_of, len(indices), cascade.chunk, state, advance) if missing[0] else []
    computed = dict(zip(missing[0], tables, strict=True))
    named = dict(zip(levels, digests, strict=True))
    if state and not state.is_main_process:
        return Real({}, named)
    for i, features in computed.items():
        if files[i]:
            write_tensors({"features": features}, files[i])
    tables = [
        computed[i] if i in computed else _kept(files[i], len(indices)) for i in range(len(levels))
    ]
    return Real(dict(zip(levels, tables, strict=True)), named)


def _kept(file: Path, count: int) -> Tensor:
    """Features that were kept before; `InputError` where they are not of so many images."""
    result = read_tensors(file).get("features", torch.empty(0))
    if result.ndim != 2 or len(result) != count or result.dtype != torch.float32:
        raise InputError(f"{file} is damaged: it holds no features of {count} images; remove it")
    return result


def _digests(
    images: Callable[[int, int], list[Tensor]], count: int, batch: int, levels: int
) -> list[str]:
    """SHA-256 of all images' shapes and pixels, level by level."""
    digests = [hashlib.sha256() for _ in range(levels)]
    for first in range(0, count, batch):
        result = images(first, min(batch, count - first))
        for digest, level in zip(digests, result, strict=True):
            for image in level:
                digest.update(repr(tuple(image.shape)).encode())
                digest.update(image.contiguous().numpy().tobytes())
    return [digest.hexdigest() for digest in digests]


def _file(folder: str | Path | None, digest: str, net: FeatureNet) -> Path | None:
    """Where features of these images by this net are kept."""
    if folder is None:
        return None
    identity = repr((digest, net.digest, net.mode, net.chunk, net.origin["clean-fid"]))
    return Path(folder) / f"{hashlib.sha256(identity.encode()).hexdigest()}.safetensors"


def sample_features(
    cascade: Cascade,
    num: int,
    net: FeatureNet,
    levels: Sequence[int],
    temperature: float | Sequence[float] = 1.0,
    seed: int = 0,
    state: PartialState | None = None,
    advance: Advance = lambda done: None,
) -> Samples:
    """Features of ``num`` samples at some stages' resolutions, drawn and forgotten chunk by chunk.

    A conditional cascade takes its classes in turn. The same for any number of processes. Raises
    `InputError` where no sample is finite.
    """

    def rows_of(first: int, number: int) -> list[Tensor]:
        draw = cascade.draw(number, None, temperature, seed, first)
        seen = [draw.finite.double()[:, None], _consistency(cascade, draw.images)]
        return [*(net(draw.images[level]) for level in levels), *seen]

    *features, finite, distance = spread(rows_of, num, cascade.chunk, state, advance)
    if not finite.any() and (state is None or state.is_main_process):
        raise InputError(NONE_FINITE)
    return Samples(
        dict(zip(levels, features, strict=True)),
        int((finite == 0).sum()),
        distance.mean(0).tolist(),
    )


def _consistency(cascade: Cascade, images: Sequence[Tensor]) -> Tensor:
    """Mean |D(image) − low| of each sample, in grey levels, (N, stages − 1)."""
    levels = [reduce_bits(image, cascade.bits) for image in images]
    result = [torch.zeros(len(levels[0]), 0, dtype=torch.float64)]
    for distance in low_distances(levels, cascade.stages):
        result.append(distance.flatten(1).mean(1, keepdim=True))
    return torch.cat(result, 1)
