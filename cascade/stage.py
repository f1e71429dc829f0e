"""A stage on disk: `config.yaml` beside `model.safetensors`, read without unpickling anything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cascade.config import StageConfig, load_saved, save_config
from cascade.record import Record, load_record
from cascade.transforms.coding import Coding, coding
from cascade.transforms.dequantise import centre
from cascade.utils.chunks import CHUNK, in_chunks
from cascade.utils.files import whole
from cascade.utils.yaml_files import first_line
from stages import Flow, InputError, glow, srflow

OTHER = "weights of another architecture than the configuration describes"
DEPTHS = ("levels", "steps", "transition_steps", "encoder_blocks")  # at most a tensor each
WIDTHS = ("width", "classes", "encoder_features", "encoder_growth")  # at most a value each
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
NOT_OF_THE_FLOW = ("kind", "pyramid", "class_weight", "class_loss")


def build(config: StageConfig) -> Flow:
    """The flow a configuration describes, with fresh weights.

    Raises `InputError` where the machine's memory does not hold them.
    """
    needed = sum(weights.nbytes for weights in outline(config).parameters())
    free = psutil.virtual_memory().available
    if needed > free:
        raise InputError(
            f"the weights that {config.out} asks for take {needed / 2**30:,.1f} GiB of memory, "
            f"{free / 2**30:,.1f} GiB are free"
        )
    return _built(config)


def outline(config: StageConfig) -> Flow:
    """The flow a configuration describes, with shapes in place of weights, which take no memory.

    Raises `InputError` for shapes that no tensor can have.
    """
    try:
        with torch.device("meta"):
            return _built(config)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise InputError(
            f"no flow is as large as {config.out} asks for: {first_line(error)}"
        ) from None


def _built(config: StageConfig) -> Flow:
    model, data = config.model, config.data
    options = {f.name: getattr(model, f.name) for f in fields(model)}
    options = {key: value for key, value in options.items() if key not in NOT_OF_THE_FLOW}
    shape = (data.channels, data.size, data.size)
    if config.upsamples:
        told = config.augment.condition
        return channels_last(
            srflow(shape, details=config.of_details, condition_on_sigma=told, **options)
        )
    return channels_last(glow(shape, **options))


def channels_last(flow: Flow) -> Flow:
    """The flow with its convolutions' weights laid out for images of that layout."""
    for module in flow.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return flow


class Stage(nn.Module):
    """One stage of a cascade: a flow, and what it takes to use it.

    Args:
        name: that of its folder.
        config: its settings.
        flow: the flow itself.
        record: what its training found out.
        digest: SHA-256 of its weights file.
        autocast: whether its nets run in bfloat16.
        chunk: images that it sees at once; a likelihood's last bits depend on it.
        sigma: what it is told of its low image, if it was trained with ``augment.condition``.
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
        chunk: int = CHUNK,
        sigma: float = 0.0,
    ):
        super().__init__()
        self.name, self.config, self.flow = name, config, flow
        self.record = record or Record()
        self.digest, self.autocast, self.chunk, self.sigma = digest, autocast, chunk, sigma
        self.training = flow.training

    def replace(self, **changes: object) -> Stage:
        """The same stage with some of its arguments changed; it shares the weights."""
        names = ("name", "config", "flow", "record", "digest", "autocast", "chunk", "sigma")
        return Stage(**{name: getattr(self, name) for name in names} | changes)

    def save(self, folder: Path) -> None:
        """Write the stage folder that `load_stage` reads; each file whole or not at all."""
        save_config(self.config, folder / "config.yaml")
        self.record.save(folder)
        write_tensors(self.flow.state_dict(), folder / "model.safetensors")

    @property
    def classes(self) -> int:
        return self.config.model.classes

    @property
    def coding(self) -> Coding:
        return coding(self.config)

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
        weight = next(self.flow.parameters())
        x = x.to(weight)
        rest = [] if labels is None else [labels.to(weight.device)]
        if low is not None:
            low = self._told(centre(low, weight.dtype, self.config.data.bits)).to(weight.device)
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        mixed = torch.autocast(weight.device.type, torch.bfloat16, enabled=self.autocast)
        with exact, mixed:
            if times == 1 or times < self.chunk:
                low = low if times == 1 or low is None else low.repeat_interleave(times, 0)
                return in_chunks(function, x, low, *rest, size=self.chunk).cpu()
            assert low is not None  # or times is 1
            results = []
            for i, rows in enumerate(torch.arange(len(x)).chunk(len(low))):
                shared = partial(_with_low, function, low[i : i + 1])
                mine = [tensor[rows] for tensor in (x, *rest)]
                results.append(in_chunks(shared, *mine, size=self.chunk))
            return torch.cat(results).cpu()

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
) -> Stage:
    """Read a stage folder. Raises `InputError` where it is missing, incomplete or not a stage.

    ``dtype`` is float32, float64, or bfloat16: float32 with the nets under bfloat16 autocast.
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
    check_architecture(config, tensors, weights)
    flow = _built(config)
    load_weights(flow, tensors, weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    flow = flow.to(device, DTYPES[dtype]).eval()
    return Stage(folder.resolve().name, config, flow, record, digest, dtype == "bfloat16")


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


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``tensors`` into a module; `InputError` where they are of another architecture."""
    if _kinds(module.state_dict()) != _kinds(tensors):
        raise InputError(f"{source} holds {OTHER}")
    module.load_state_dict(tensors)


def check_architecture(config: StageConfig, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Raise `InputError` unless ``tensors`` are the weights of a configuration's flow.

    Whatever the configuration asks for, this takes no more memory and time than the weights that
    came with it: their shapes are compared with those of a flow without values.
    """
    values = sum(tensor.numel() for tensor in tensors.values())
    for key in (*DEPTHS, *WIDTHS):
        asked = getattr(config.model, key, 0)
        if asked > (len(tensors) if key in DEPTHS else values):
            raise InputError(f"{source} holds {OTHER}: model.{key} is {asked}")
    if _kinds(outline(config).state_dict()) != _kinds(tensors):
        raise InputError(f"{source} holds {OTHER}")


def _kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    """Shapes, and whether values have fractions, by name."""
    return {name: (t.shape, t.is_floating_point()) for name, t in tensors.items()}


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; anything else is refused, and never executed."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from None


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, whole or not at all; contiguous clones, as the format demands."""
    clones = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
    with whole(file) as aside:
        try:
            save_file(clones, aside)
        except SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from None
