"""A stage on disk: `config.yaml` beside `model.safetensors`, read without unpickling anything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cascade.building import build_with
from cascade.config import StageConfig, load_saved, save_config
from cascade.record import Record, load_record
from cascade.transforms.coding import Coding, coding, condition
from cascade.transforms.dequantise import centre, quantise
from cascade.transforms.pyramid import halve
from cascade.utils.chunks import chunk_of, in_chunks
from cascade.utils.compiling import compiled
from cascade.utils.tensors import read_tensors, serialised, write_tensors
from stages import Flow, InputError
from stages.steps import prepare

GIVEN = {"colour": "luma", "inpaint": "surroundings"}  # by kind of stage
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}


class Stage(nn.Module):
    """One stage of a cascade: a flow, and what it takes to use it.

    Args:
        name: that of its folder.
        config: its settings.
        flow: the flow itself.
        record: what its training found out.
        digest: SHA-256 of its weights file.
        autocast: whether its nets run in bfloat16.
        chunk: images that it sees at once, on which last bits depend; its device's number if None.
        sigma: what it is told of its low image, if it was trained with ``augment.condition``.
        compiling: options with which `run` compiles the flow's functions, see `compiled`; None
            leaves them as they are.
    """

    flow: Any  # a Flow, or one without its priors

    def __init__(
        self,
        name: str,
        config: StageConfig,
        flow: Flow,
        record: Record | None = None,
        digest: str = "",
        autocast: bool = False,
        chunk: int | None = None,
        sigma: float = 0.0,
        compiling: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.name, self.config, self.flow = name, config, flow
        self.record = record or Record()
        self.digest, self.autocast, self.chunk, self.sigma = digest, autocast, chunk, sigma
        self.compiling, self._compiled = compiling, dict[str, Callable[..., Tensor]]()
        self.training = flow.training

    def replace(self, **changes: object) -> Stage:
        """The same stage with some of its arguments changed; it shares the weights."""
        names = ["name", "config", "flow", "record", "digest"]
        names += ["autocast", "chunk", "sigma", "compiling"]
        return Stage(**{name: getattr(self, name) for name in names} | changes)

    def save(self, folder: Path) -> None:
        """Write the stage folder that `load_stage` reads; each file whole or not at all."""
        save_config(self.config, folder / "config.yaml")
        self.record.save(folder)
        write_tensors(self._saved(), folder / "model.safetensors")

    def _saved(self) -> dict[str, Tensor]:
        """The weights as files have them, float32 whatever they are computed in."""
        tensors = self.flow.state_dict().items()
        return {name: t.float() if t.is_floating_point() else t for name, t in tensors}

    @property
    def saved_digest(self) -> str:
        """SHA-256 of the weights file that `save` writes; ``digest``, if nobody changed them."""
        return hashlib.sha256(serialised(self._saved())).hexdigest()

    @property
    def classes(self) -> int:
        return self.config.model.classes

    @property
    def class_names(self) -> list[str]:
        """Names of all classes, in the order of labels: numbers where training knew no names."""
        known = self.record.classes
        return [*known, *map(str, range(len(known), self.classes))]

    @property
    def at_once(self) -> int:
        """Images that it sees at once: its ``chunk``, or the number of the device it is on."""
        return self.chunk or chunk_of(next(self.flow.parameters()).device)

    @property
    def coding(self) -> Coding:
        return coding(self.config)

    @property
    def given(self) -> str:
        """Which part of an image the stage is given, where it is one of its own image."""
        return GIVEN.get(self.config.model.kind, "")

    def condition(self, image: Tensor) -> Tensor | None:
        """The part of an integer image that the stage is given, None where it is none of it.

        An SRFlow's low image is none: it is the image of the stage below.
        """
        return condition(self.config, image) if self.given else None

    def lower(self, image: Tensor) -> Tensor:
        """The integer images of half the size, uint8, that the stage is given of integer ones."""
        low = halve(image, self.config.data.bits, self.config.model.pyramid)
        if self.flow.downscaler is None:
            return low
        moved = self.run(self.flow.downscaler, self.coding.centre(image), low)
        return quantise(moved, self.config.data.bits)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the images it makes, (C, H, W); what its flow models may be of another shape."""
        data = self.config.data
        return data.channels, data.size, data.size

    def run(
        self,
        function: Callable[..., Tensor],
        x: Tensor,
        low: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """``function(x, low, label)`` in chunks, on the stage's device and in its precision.

        ``low`` (B, C, h, w) is an integer image; ``x`` may hold n images for each low one,
        (n·B, C, H, W), those of one side by side: where they fill a chunk, they share what the low
        image alone decides. A row's result depends on its own values alone (in rounding, on whether
        it shares, too). Raises `InputError` where the low images do not divide the others.
        """
        times = 1 if low is None else len(x) // max(1, len(low))
        if low is not None and times * len(low) != len(x):
            raise InputError(f"{len(x)} images are no multiple of {len(low)} low images")
        weight, chunk = next(self.flow.parameters()), self.at_once
        if self.compiling is not None:
            function = self._compile(function, weight.device)
        x = x.to(weight)
        rest = [] if labels is None else [labels.to(weight.device)]
        if low is not None:
            low = self._told(centre(low, weight.dtype, self.config.data.bits)).to(weight.device)
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        mixed = torch.autocast(weight.device.type, torch.bfloat16, enabled=self.autocast)
        with exact, mixed:
            if times == 1 or times < chunk:
                low = low if times == 1 or low is None else low.repeat_interleave(times, 0)
                return in_chunks(function, x, low, *rest, size=chunk).cpu()
            assert low is not None  # or times is 1
            results = []
            for i, rows in enumerate(torch.arange(len(x)).chunk(len(low))):
                shared = partial(_with_low, function, low[i : i + 1])
                mine = [tensor[rows] for tensor in (x, *rest)]
                results.append(in_chunks(shared, *mine, size=chunk))
            return torch.cat(results).cpu()

    def _compile(
        self, function: Callable[..., Tensor], device: torch.device
    ) -> Callable[..., Tensor]:
        """A method of the flow, compiled; any other function as it is."""
        owner: Any = getattr(function, "__self__", None)
        name, options = getattr(function, "__name__", ""), self.compiling or {}
        if owner is not self.flow:
            return function
        prepare(owner)
        if name not in self._compiled:
            self._compiled[name] = compiled(function, device, **options)
        return self._compiled[name]

    def perturb(
        self, image: Tensor, noise: Tensor, low: Tensor | None = None, labels: Tensor | None = None
    ) -> Tensor:
        """y' = f⁻¹(f(y) + noise), what the stage makes of an image whose latents are disturbed.

        ``image`` (N, C, h, w) holds integers, whose bins' middle y is encoded; ``noise`` has the
        flow's shape. The result is not rounded yet.
        """
        z = self.run(self.flow.noise_of, self.coding.centre(image), low, labels)
        return self.run(self.flow.decode, z + noise.to(z), low, labels)

    def _told(self, low: Tensor) -> Tensor:
        if not self.config.augment.condition:
            return low
        return with_sigma(low, torch.full((len(low),), self.sigma))


class StageList(nn.ModuleList):
    """Stages, base first."""

    def __iter__(self) -> Iterator[Stage]:
        return super().__iter__()  # type: ignore[return-value]  # it holds stages alone

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(index)


def _with_low(function: Callable[..., Tensor], low: Tensor, x: Tensor, *labels: Tensor) -> Tensor:
    return function(x, low, *labels)


def load_stage(
    folder: str | Path,
    device: str | torch.device = "cpu",
    dtype: str = "float32",
    chunk: int | None = None,
) -> Stage:
    """Read a stage folder. Raises `InputError` where it is missing, incomplete or not a stage.

    ``dtype`` is float32, float64, or bfloat16: float32 with the nets under bfloat16 autocast.
    ``chunk`` is that of `Stage`.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype is one of {', '.join(DTYPES)}, got {dtype}")
    folder = Path(folder)
    weights = folder / "model.safetensors"
    if not folder.is_dir():
        raise InputError(f"no stage folder {folder}")
    if not weights.is_file():
        raise InputError(f"stage folder {folder} has no model.safetensors; train the stage first")
    config, record, tensors = load_saved(folder), load_record(folder), read_tensors(weights)
    if len(record.classes) > config.model.classes > 0:
        raise InputError(
            f"{folder}/record.json is damaged: it names {len(record.classes)} classes, "
            f"model.classes is {config.model.classes}"
        )
    flow = build_with(config, tensors, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    flow = flow.to(device, DTYPES[dtype]).eval()
    return Stage(folder.resolve().name, config, flow, record, digest, dtype == "bfloat16", chunk)


def per_stage(temperature: float | Sequence[float], count: int) -> list[float]:
    """One temperature a stage, from one for all of them or from as many as there are stages."""
    several = getattr(temperature, "ndim", None) != 0 and isinstance(
        temperature, Sequence | Tensor | np.ndarray
    )
    numbers: Any = temperature if several else [temperature]
    try:
        if isinstance(temperature, str):
            raise TypeError
        given = [float(t) for t in numbers]
    except (TypeError, ValueError):
        message = f"a temperature is a number, or one a stage, got {temperature!r}"
        raise InputError(message) from None
    if len(given) not in (1, count):
        raise InputError(f"{len(given)} temperatures for {count} stages")
    if not all(0 <= t < math.inf for t in given):
        raise InputError(f"a temperature is a finite number not below 0, got {given}")
    return given * count if len(given) == 1 else given


def with_sigma(low: Tensor, sigma: Tensor) -> Tensor:
    """Low images (B, C, h, w) with one more channel: each image's σ, (B,)."""
    plane = sigma.to(low)[:, None, None, None].expand(-1, 1, *low.shape[2:])
    return torch.cat([low, plane], dim=1)
