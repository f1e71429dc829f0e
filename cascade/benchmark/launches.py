"""How many operators a training step hands to the device: what small images on a GPU wait for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cascade.benchmark import baselines, operations
from cascade.building import build
from cascade.config import StageConfig
from cascade.optimization.averages import averaged
from cascade.optimization.optimizers import optimiser

NO_KERNEL = ("aten::_unsafe_view", "aten::_local_scalar_dense", "aten::lift_fresh")
NARROW = 8  # the width of nets that are counted: they take as many operators as wide ones


class Dispatched(TorchDispatchMode):
    """Counts the operators of ATen that run inside, below autograd.

    A list of tensors that is handed over whole (``_foreach_…``) is one operator. `detach` is left
    out: autograd calls it for what it keeps, but in a mode like this one alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "aten" and func.name() != "aten::detach":
            self.calls[func] += 1
        return func(*args, **(kwargs or {}))

    @property
    def operators(self) -> int:
        """All of them, views too."""
        return self.calls.total()

    @property
    def kernels(self) -> int:
        """Those that make a kernel run: neither views nor reads of single numbers."""
        idle = (func.is_view or func.name() in NO_KERNEL for func in self.calls)
        return sum(count for count, skip in zip(self.calls.values(), idle, strict=True) if not skip)


def of_a_step(config: StageConfig, device: torch.device, precision: str) -> dict[str, Dispatched]:
    """What the forward pass, the backward pass and the optimiser of a training step dispatch.

    The optimiser's part holds the gradient's norm, clipping and the average of the weights. It is
    the step as a GPU runs it, not compiled: in the library's convolutions, its nets `NARROW`.
    """
    train = replace(config.train, batch_size=2, compile=False)
    config = replace(config, train=train, model=replace(config.model, width=NARROW))
    torch.manual_seed(0)
    loss = operations.ready(build(config), config, device)
    given, adam = operations.inputs(config, device), optimiser(loss, train)
    average = averaged(loss, train.ema) if train.ema else None
    counts: dict[str, Dispatched] = {}

    def step() -> None:
        with Dispatched() as counts["forward"], operations.autocast(device, precision):
            nats, logits = loss(given.x, given.low, given.label)
            total = nats.mean() if logits is None else nats.mean() + logits.mean()
        with Dispatched() as counts["backward"]:
            total.backward()
        with Dispatched() as counts["optimiser"]:
            operations.update(loss, adam, config)
            if average is not None:
                average.update_parameters(loss)

    for _ in range(2):  # the first step makes the optimiser's state
        baselines.with_the_library(step)
    return counts
