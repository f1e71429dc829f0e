"""Where a likelihood stopped being finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from stages import InputError


class NotFinite(InputError):
    """A likelihood that is not finite: of which image (row of the batch), stage and layer."""

    def __init__(self, row: Any, stage: str, layer: str):
        super().__init__(
            f"image {row} has no finite likelihood: stage {stage}, first in {layer}; "
            "its weights are damaged or training diverged"
        )
        self.row, self.stage, self.layer = row, stage, layer

    def of(self, image: str) -> NotFinite:
        """The same fault, with the image called by its name in the data set."""
        return NotFinite(image, self.stage, self.layer)


NONE_FINITE = "no sample is finite: the weights are damaged, or the temperature is too high"


def check_some_finite(y: Tensor) -> None:
    """Raise `InputError` where every image of a batch (B, C, H, W) holds a value not finite."""
    if not y.isfinite().flatten(1).all(1).any():
        raise InputError(NONE_FINITE)


@contextmanager
def first_not_finite(module: nn.Module) -> Iterator[Callable[[], str]]:
    """While the block runs, watch the outputs of all layers; call the result for the first bad one.

    Inner layers finish before those around them, so the first is the innermost.
    """
    seen = []

    def watch(name: str) -> Callable[..., None]:
        def look(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            tensors = [output] if isinstance(output, torch.Tensor) else output
            if not all(t.isfinite().all() for t in tensors if isinstance(t, torch.Tensor)):
                seen.append(f"{name} ({type(layer).__name__})")

        return look

    layers = [(name, layer) for name, layer in module.named_modules() if name]
    hooks = [layer.register_forward_hook(watch(name)) for name, layer in layers]
    try:
        yield lambda: seen[0] if seen else "the base density"
    finally:
        for hook in hooks:
            hook.remove()
