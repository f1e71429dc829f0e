"""What a stage costs, counted from its operators on tensors without values.

`cascade.benchmark.machines` makes seconds of it.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from cascade.building import outline
from cascade.config import StageConfig
from cascade.data.batches import Batch
from cascade.training.phases import encoder_loss, flow_loss, phases, super_resolution
from cascade.transforms.coding import condition_shape
from stages import Flow, StageLoss

COUNTED = (2, 4)  # images: of one alone some operators are other ones
FLOAT = 4  # bytes
MOMENTS = {"adamax": 2, "adam": 2, "muon": 1}  # tensors of each weight's size in the optimiser
PASSES = 12  # over all weights, in lists: norm, clipping, moments, step, average
OPERANDS = 3  # tensors that such a pass reads and writes


@dataclass(frozen=True)
class Work:
    """Floating-point operations of products, bytes read and written, operators launched, and the
    largest number of bytes of tensors there at a time, beyond those there before."""

    flops: float
    bytes: float
    launches: float
    peak: float = 0


@dataclass(frozen=True)
class Cost:
    """What a stage costs: its weights, and work by the number of images.

    ``phases`` holds for each phase of training its steps and the work of its forward and backward
    passes; ``likelihood`` and ``sample`` are of one image, all classes summed over. ``sample`` is
    None where how often it iterates depends on values.
    """

    config: StageConfig
    weights: int
    tensors: int
    phases: list[tuple[int, Callable[[float], Work]]]
    likelihood: Work
    sample: Work | None

    @property
    def step(self) -> Work:
        """Forward and backward passes over a whole batch in one process, in the last phase."""
        return self.phases[-1][1](self.config.train.batch_size)

    @property
    def kept(self) -> int:
        """Bytes of the weights, their average and the optimiser's moments, in every process."""
        train = self.config.train
        return FLOAT * self.weights * (1 + MOMENTS[train.optimizer] + bool(train.ema))


def cost(config: StageConfig) -> Cost:
    """Count what a stage of this configuration costs."""
    ends = [0, *(phase.end for phase in phases(config))]
    steps = [after - before for before, after in itertools.pairwise(ends)]
    flow = outline(config)
    sizes = [weight.numel() for weight in flow.parameters()]
    try:
        sample = _counted(config, "sample", 1)
    except RuntimeError as error:
        if "item() cannot be called on meta tensors" not in str(error):
            raise
        sample = None
    return Cost(
        config,
        sum(sizes),
        len(sizes),
        [
            (count, _by_images(config, phase.name))
            for count, phase in zip(steps, phases(config), strict=True)
        ],
        _counted(config, "likelihood", 1),
        sample,
    )


def _by_images(config: StageConfig, phase: str) -> Callable[[float], Work]:
    """Work of a training step: all but the launches grows by as much with every image."""
    few, more = (_counted(config, phase, images) for images in COUNTED)
    parts = config.train.accumulate

    def work(images: float) -> Work:
        times = (images / parts - COUNTED[0]) / (COUNTED[1] - COUNTED[0])
        flops, moved, peak = (
            a + times * (b - a)
            for a, b in ((few.flops, more.flops), (few.bytes, more.bytes), (few.peak, more.peak))
        )
        return Work(parts * flops, parts * moved, parts * more.launches, peak)

    return work


def _counted(config: StageConfig, what: str, images: int) -> Work:
    """The work of a ``sample``, a ``likelihood``, or the passes of a phase of training."""
    flow, counter = outline(config), Counter()
    flow.set_activation_memory(config.train.memory)
    with _without_autocast(), torch.device("meta"):
        batch, operation = _batch(flow, config, images), {"sample": _sample, "likelihood": _score}
        if what in operation:
            with counter, torch.no_grad():
                operation[what](flow, batch)
        else:
            module: Any = StageLoss(flow)
            if what == "encoder":
                module = super_resolution(flow, config)
            elif what == "frozen":
                flow.encoder.requires_grad_(False)
            objective = encoder_loss if what == "encoder" else flow_loss
            with counter:
                objective(module, batch, config)[0].backward()
    return Work(counter.flops, counter.bytes, counter.launches, counter.peak)


def _sample(flow: Flow, batch: Batch) -> None:
    flow.sample(batch.target, batch.low, batch.label)


def _score(flow: Flow, batch: Batch) -> None:
    flow.class_log_probs(batch.target, batch.low)


def _batch(flow: Flow, config: StageConfig, images: int) -> Batch:
    shape = condition_shape(config)
    low = torch.zeros(images, *shape) if shape else None
    label = torch.zeros(images, dtype=torch.int64)
    return Batch(
        torch.zeros(images, *flow.shape),
        low,
        label if flow.classes else None,
    )


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Tensors without values have none."""
    with (
        patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
        patch.object(torch, "get_autocast_dtype", lambda _: torch.float32),
        patch.object(torch, "is_autocast_enabled", lambda _: False),
    ):
        yield


class Counter(TorchDispatchMode):
    """Counts operators that write: views, and tensors that are made but not filled, are free."""

    def __init__(self) -> None:
        super().__init__()
        self.flops, self.bytes, self.launches, self.peak, self.live = 0, 0, 0, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given, made = _tensors((args, kwargs)), _tensors(out)
        before = {id(tensor.untyped_storage()) for tensor in given}
        fresh = [tensor for tensor in made if id(tensor.untyped_storage()) not in before]
        for tensor in fresh:
            self._watch(tensor.untyped_storage())
        schema = func._schema
        if (fresh or schema.is_mutable) and not schema.name.startswith("aten::empty"):
            formula = flop_registry.get(func._overloadpacket)
            self.flops += int(formula(*args, **kwargs, out_val=out)) if formula else 0
            self.bytes += sum(tensor.nbytes for tensor in (*given, *made))
            self.launches += 1
        return out

    def _watch(self, storage: Any) -> None:
        """Count what a storage holds for as long as it is there."""
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, size)

    def _forget(self, size: int) -> None:
        self.live -= size


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
