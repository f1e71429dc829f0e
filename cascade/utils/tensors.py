"""Tensors on disk, read without unpickling anything, and what tells weights apart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from cascade.utils.files import whole
from stages import InputError

OTHER = "weights of another architecture than the configuration describes"


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; anything else is refused, and never executed."""
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a readable safetensors file: {error}") from None


def write_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Write a safetensors file, whole or not at all; contiguous clones, as the format demands."""
    clones = _clones(tensors)
    with whole(file) as aside:
        try:
            save_file(clones, aside)
        except SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from None


def serialised(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of the file that `write_tensors` writes."""
    return save(_clones(tensors))


def _clones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Copy ``tensors`` into a module; `InputError` where they are of another architecture."""
    if kinds(module.state_dict()) != kinds(tensors):
        raise InputError(f"{source} holds {OTHER}")
    module.load_state_dict(tensors)


def kinds(tensors: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, bool]]:
    """Shapes, and whether values have fractions, by name."""
    return {name: (t.shape, t.is_floating_point()) for name, t in tensors.items()}


def weights_digest(module: nn.Module) -> str:
    """SHA-256 of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for tensor in module.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
