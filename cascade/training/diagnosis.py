"""What went wrong in a training step whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stages import InputError

LARGEST = 3  # layers named


class Diverged(InputError):
    """Too many training steps in a row were not finite."""


@dataclass
class Fault:
    """What is wrong, in one line; the least ``severity`` is closest to the cause."""

    severity: int
    text: str


def explain(module: nn.Module, *inputs: Tensor | None) -> Fault:
    """Which layer is at fault: run ``module`` again and look at every output and gradient.

    Call it while the gradients of the step at fault are still there, not clipped.
    """
    with torch.no_grad(), _largest_outputs(module) as result:
        module.forward(*inputs)  # not as it may be compiled, without hooks
    tops: Any = sorted(result.items(), key=lambda item: -item[1])[:LARGEST]
    largest = ", ".join(f"{name} {value:.1e}" for name, value in tops)
    for name, value in result.items():
        if not value < float("inf"):
            before = [n for n in result if result[n] < float("inf")]
            tops = sorted(before, key=lambda n: -result[n])[:LARGEST]
            largest = ", ".join(f"{n} {result[n]:.1e}" for n in tops) or "none"
            text = f"first not finite: the output of {name}; largest finite outputs: {largest}"
            return Fault(0, text)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            text = f"all outputs are finite, the gradient of {name} is not; largest: {largest}"
            return Fault(1, text)
    return Fault(2, f"outputs and gradients are finite, their norm not; largest: {largest}")


@contextmanager
def _largest_outputs(module: nn.Module) -> Iterator[dict[str, float]]:
    """The size of the largest output value of every layer, in the order they finish; nan is inf."""
    result: dict[str, float] = {}

    def look(name: str, kind: str, output: object) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        sizes = [t.detach().abs().max() for t in tensors if isinstance(t, Tensor) and t.numel()]
        if sizes:
            largest = torch.stack([s.double() for s in sizes]).max().item()
            result[f"{name} ({kind})"] = largest if largest == largest else float("inf")

    hooks = [
        layer.register_forward_hook(
            lambda m, args, output, name=name: look(name, type(m).__name__, output)
        )
        for name, layer in module.named_modules()
        if name
    ]
    try:
        yield result
    finally:
        for hook in hooks:
            hook.remove()
