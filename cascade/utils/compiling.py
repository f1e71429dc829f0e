"""How code is handed to `torch.compile`: with CUDA graphs on a GPU, without them elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def compile_options(device: torch.device) -> dict[str, Any]:
    """Arguments of `torch.compile` for what runs on a device with inputs of fixed shapes."""
    mode = "reduce-overhead" if device.type == "cuda" else "default"
    return {"mode": mode, "dynamic": False}


def begin_step(device: torch.device) -> None:
    """Say that what compiled code returned before is not needed any more: its memory is used again.

    Needed before each compiled training step, whose parts then keep one another's gradients.
    """
    if device.type == "cuda":  # where there are CUDA graphs
        torch.compiler.cudagraph_mark_step_begin()


def compiled(
    function: Callable[..., Tensor], device: torch.device, **options: Any
) -> Callable[..., Tensor]:
    """A compiled function whose results stay when it is called again.

    ``options`` replace those of `compile_options`.
    """
    run = torch.compile(function, **(compile_options(device) | options))

    def kept(*arguments: Any) -> Tensor:
        begin_step(device)
        return run(*arguments).clone()

    return kept
