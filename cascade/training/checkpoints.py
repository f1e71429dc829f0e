"""The states a training run resumes from, each one flat file of tensors."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from cascade.utils.tensors import load_weights, read_tensors, write_tensors
from stages import InputError, InputWarning

COUNTS = ("step", "phase", "best", "skipped", "waited", "seconds")
OPTIONAL = ("waited", "seconds")  # 0 where a state does not say


def save_state(
    file: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
    counts: Mapping[str, float],
) -> None:
    """Write modules by name, the optimiser's moments and counts by name, whole or not at all."""
    tensors = {f"{n}/{key}": v for n, m in modules.items() for key, v in m.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
    for name, count in counts.items():
        tensors[f"count/{name}"] = torch.tensor(count, dtype=torch.float64)
    write_tensors(tensors, file)


def load_state(
    tensors: Mapping[str, Tensor],
    file: Path,
    modules: Mapping[str, nn.Module],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put what `save_state` wrote into ``file`` into the same modules and optimiser.

    Raises `InputError` where it is of another architecture.
    """
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in (*modules, "optimizer", "count")}
    for key, value in tensors.items():
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
        place = int(index) if index.isdecimal() else len(parameters)
        like = parameters[place] if place < len(parameters) and value.dim() else value
        if place >= len(parameters) or like.shape != value.shape:
            raise InputError(f"{file} holds {key} of the optimiser, which fits no parameter")
        moments.setdefault(place, {})[name] = torch.empty_like(like).copy_(value)
    group_of = [n for n, group in enumerate(optimizer.param_groups) for _ in group["params"]]
    found = {(group_of[place], frozenset(moment)) for place, moment in moments.items()}
    if len(found) > len({group for group, _ in found}):
        raise InputError(f"{file} lacks some of the optimiser's moments")
    optimizer.load_state_dict({"state": moments, "param_groups": groups})


def _count(tensors: Mapping[str, Tensor], name: str) -> int | float:
    """A count of a state; `InputError` where it is missing, or none.

    All but ``best`` and ``seconds`` are whole.
    """
    if name in OPTIONAL and f"count/{name}" not in tensors:
        return 0
    tensor = tensors.get(f"count/{name}", torch.empty(0))
    value = tensor.item() if tensor.numel() == 1 and not tensor.is_complex() else -1
    if name == "best":
        return float(value)
    if not 0 <= value < 2**53 or (name != "seconds" and value != int(value)):
        raise InputError(f"it does not say the {name} it is of")
    return float(value) if name == "seconds" else int(value)


class States:
    """The folder of a stage's states, of which the newest few are kept."""

    def __init__(self, folder: Path, keep: int):
        self.folder = folder
        self.keep = keep
        self.damaged: set[Path] = set()

    def file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def files(self) -> list[Path]:
        """The states, newest first, but for those found damaged."""
        return sorted(set(self.folder.glob("step-*.safetensors")) - self.damaged, reverse=True)

    def newest(self) -> tuple[Path, dict[str, Tensor], dict[str, int | float]] | None:
        """The newest state that can be read: file, tensors, counts; None where there is none.

        Warns of those that cannot. Raises `InputError` if there are states but none is readable.
        """
        files = self.files()
        for file in files:
            try:
                tensors = read_tensors(file)
                counts = {name: _count(tensors, name) for name in COUNTS}
            except InputError as error:
                self.damaged.add(file)
                remark = f"{file} cannot be used ({error}); going back to the state before it"
                warnings.warn(remark, InputWarning, stacklevel=2)
                continue
            return file, tensors, counts
        if files:
            raise InputError(
                f"none of the states in {self.folder} can be read; --force starts over"
            )
        return None

    def prune(self) -> None:
        """Remove all but the newest states that are sound."""
        for file in [*self.files()[self.keep :], *self.damaged]:
            file.unlink(missing_ok=True)
        self.damaged.clear()
