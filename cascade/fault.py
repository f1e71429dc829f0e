"""What went wrong in a training step whose loss or gradient is not finite."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

LARGEST = 3  # layers named


def explain(module: nn.Module, *inputs: Tensor | None) -> str:
    """Which layer is at fault, in one line: run ``module`` again and look at every output.

    Call it while the gradients of the step at fault are still there.
    """
    with torch.no_grad(), _largest_outputs(module) as found:
        module(*inputs)
    tops = sorted(found.items(), key=lambda item: -item[1])[:LARGEST]
    largest = ", ".join(f"{name} {value:.1e}" for name, value in tops)
    for name, value in found.items():
        if not value < float("inf"):
            before = [n for n in found if found[n] < float("inf")]
            tops = sorted(before, key=lambda n: -found[n])[:LARGEST]
            largest = ", ".join(f"{n} {found[n]:.1e}" for n in tops) or "none"
            return f"first not finite: the output of {name}; largest finite outputs: {largest}"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not parameter.grad.isfinite().all():
            return f"all outputs are finite, the gradient of {name} is not; largest: {largest}"
    return f"outputs and gradients are finite, their norm is not; largest outputs: {largest}"


@contextmanager
def _largest_outputs(module: nn.Module) -> Iterator[dict[str, float]]:
    """The size of the largest output value of every layer, in the order they finish; nan is inf."""
    found: dict[str, float] = {}

    def look(name: str, kind: str, output: object) -> None:
        tensors = output if isinstance(output, tuple) else (output,)
        sizes = [t.detach().abs().max() for t in tensors if isinstance(t, Tensor) and t.numel()]
        if sizes:
            largest = torch.stack([s.double() for s in sizes]).max().item()
            found[f"{name} ({kind})"] = largest if largest == largest else float("inf")

    hooks = [
        layer.register_forward_hook(
            lambda m, args, output, name=name: look(name, type(m).__name__, output)
        )
        for name, layer in module.named_modules()
        if name
    ]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
