"""From a configuration to the flow that it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from cascade.config import Model, StageConfig
from cascade.utils.tensors import OTHER, kinds, load_weights
from cascade.utils.yaml_files import first_line
from stages import Flow, InputError, MixtureSettings, glow, srflow

DEPTHS = (
    "levels",
    "steps",
    "net_blocks",
    "transition_steps",
    "encoder_blocks",
    "mixture_blocks",
    "dequantise_steps",
)  # at most a tensor each
WIDTHS = (  # at most a value each
    "width",
    "components",
    "classes",
    "encoder_features",
    "encoder_growth",
    "mixture_width",
    "downscaler",
)
NOT_OF_THE_FLOW = ("kind", "hole", "pyramid", "class_weight", "class_loss")
OF_THE_MIXTURE = (
    "colour",
    "order",
    "mixture_width",
    "mixture_blocks",
    "mixture_chain",
)


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
        with torch.device("meta"), _Undrawn():
            return _built(config).to("meta")  # what is on the CPU, too
    except (RuntimeError, OverflowError, TypeError) as error:
        raise InputError(
            f"no flow is as large as {config.out} asks for: {first_line(error)}"
        ) from None


class _Undrawn(TorchFunctionMode):
    """Normal values are not drawn, and counts are on the CPU.

    Both would have torch load its compiler, which takes seconds, to find that there are no values.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_):
            return args[0] if args else named["tensor"]
        return func(*args, **(named | {"device": "cpu"} if func is torch.arange else named))


def _built(config: StageConfig) -> Flow:
    model, data = config.model, config.data
    options = {f.name: getattr(model, f.name) for f in fields(model)}
    others = (*NOT_OF_THE_FLOW, *OF_THE_MIXTURE)
    options = {key: value for key, value in options.items() if key not in others}
    options |= {"first": _first(model), "bits": data.bits}
    options["label_optional"] = config.label_optional
    shape = (data.channels, data.size, data.size)
    if config.conditional:
        options |= {"details": config.of_details, "chroma": config.of_chroma}
        options["holes"] = bool(config.hole)
        told = config.augment.condition
        return channels_last(srflow(shape, condition_on_sigma=told, **options))
    return channels_last(glow(shape, **options))


def _first(model: Model) -> MixtureSettings | None:
    """What comes before the levels of a stage's flow."""
    if model.first == "none":
        return None
    width, blocks, chain = model.mixture_width, model.mixture_blocks, model.mixture_chain
    return MixtureSettings(model.components, model.colour, model.order, width, blocks, chain)


def _idle(model: Model) -> set[str]:
    """Sizes of what the flow does not have, beside the other settings."""
    idle = set() if model.steps else {"width", "transition_steps", "net_blocks"}
    if model.first == "none":
        idle |= {"mixture_width", "mixture_blocks"}
        if model.coupling != "mixture":
            idle.add("components")
    if model.dequantise == "uniform":
        idle.add("dequantise_steps")
    if getattr(model, "encoder", "rrdb") == "residual":
        idle.add("encoder_growth")
    return idle


def channels_last(flow: Flow) -> Flow:
    """The flow with its convolutions' weights laid out for images of that layout."""
    for module in flow.modules():
        if isinstance(module, nn.Conv2d):
            module.to(memory_format=torch.channels_last)
    return flow


def build_with(config: StageConfig, tensors: Mapping[str, Tensor], source: Path) -> Flow:
    """The flow a configuration describes, with the weights ``tensors`` of a file ``source``.

    Raises `InputError` where they are of another architecture. Whatever the configuration asks for,
    that takes no more memory and time than the weights that came with it: their shapes are compared
    with those of a flow without values.
    """
    values = sum(tensor.numel() for tensor in tensors.values())
    idle = _idle(config.model)
    for key in (*DEPTHS, *WIDTHS):
        asked = 0 if key in idle else getattr(config.model, key, 0)
        if asked > (len(tensors) if key in DEPTHS else values):
            raise InputError(f"{source} holds {OTHER}: model.{key} is {asked}")
    if kinds(outline(config).state_dict()) != kinds(tensors):
        raise InputError(f"{source} holds {OTHER}")
    flow = _built(config)
    load_weights(flow, tensors, source)
    return flow
