"""The state a training run resumes from, as one flat set of tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from cascade.stage import load_weights, read_tensors, write_tensors
from stages import InputError


def save_state(
    file: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write modules by name, the optimiser's moments and the step, whole or not at all."""
    tensors = {f"{n}/{key}": v for n, m in modules.items() for key, v in m.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
    write_tensors({**tensors, "step/": torch.tensor(step)}, file)


def load_state(file: Path, modules: dict[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Read what `save_state` wrote into the same modules and optimiser; returns the step.

    Raises `InputError` where the file is damaged or of another architecture.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*modules, "optimizer", "step")}
    for key, value in read_tensors(file).items():
        part, _, name = key.partition("/")
        if part not in parts:
            raise InputError(f"{file} holds {part!r}, which this configuration has not")
        parts[part][name] = value
    for name, module in modules.items():
        load_weights(module, parts[name], file)
    groups = optimizer.state_dict()["param_groups"]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in parts["optimizer"].items():
        index, _, name = key.partition("/")
        like = parameters[int(index)] if value.dim() else value
        moments.setdefault(int(index), {})[name] = torch.empty_like(like).copy_(value)
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return int(parts["step"][""])
