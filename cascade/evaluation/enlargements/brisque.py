"""BRISQUE by the package piq, with support vectors from a file: nothing is downloaded.

Source: Mittal, Moorthy and Bovik, 2012, No-reference image quality assessment in the spatial
domain, https://doi.org/10.1109/TIP.2012.2214050
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from stages import InputError

WEIGHTS = "brisque_svm_weights.pt"
URL = f"https://github.com/photosynthesis-team/piq/releases/download/v0.4.0/{WEIGHTS}"
SIZE = 36  # features of an image
LEAST = 16  # side of an image, pixels


@dataclass(frozen=True)
class Brisque:
    """Coefficients (M, 1) and support vectors (M, 36) of the regression."""

    coefficients: Tensor
    vectors: Tensor
    name: str
    digest: str

    @classmethod
    def load(cls, file: str | Path) -> Brisque:
        """Read piq's file of weights, which executes nothing; `InputError` where it is another."""
        _function()
        path = Path(file)
        if not path.is_file():
            raise InputError(
                f"no file {file}; get it by 'curl -LO {URL}' and pass --brisque {WEIGHTS}"
            )
        try:
            coefficients, vectors = torch.load(path, weights_only=True)
            sound = vectors.shape == (coefficients.numel(), SIZE) and vectors.isfinite().all()
        except (RuntimeError, ValueError, TypeError, AttributeError, EOFError, pickle.PickleError):
            sound = False
        if not sound:
            raise InputError(f"{file} is not piq's {WEIGHTS}: coefficients and vectors of {SIZE}")
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(coefficients.reshape(-1, 1), vectors, path.name, digest)

    def __call__(self, image: Tensor) -> float:
        """BRISQUE of an image uint8 (C, H, W), about 0 to 100, the less the better.

        Raises `InputError` for one that is flat or smaller than 16×16.
        """
        brisque = _function()
        if min(image.shape[1:]) < LEAST:
            raise InputError(f"BRISQUE takes images of {LEAST}x{LEAST} pixels or more")
        with _weights_of(self):
            try:
                result = brisque(image[None].double(), data_range=255).item()
            except AssertionError:  # a statistic of it is undefined
                raise InputError("BRISQUE cannot score an image that is flat") from None
        return result


def _function() -> Callable[..., Tensor]:
    try:
        from piq import brisque
    except ImportError:
        raise InputError("BRISQUE needs piq: pip install 'csrflow[scores]'") from None
    return brisque


@contextmanager
def _weights_of(model: Brisque) -> Iterator[None]:
    """Inside, piq finds these weights where it keeps what it has downloaded."""
    before = torch.hub.get_dir()
    with TemporaryDirectory() as folder:
        place = Path(folder, "checkpoints")
        place.mkdir()
        torch.save((model.coefficients, model.vectors), place / WEIGHTS)
        torch.hub.set_dir(folder)
        try:
            yield
        finally:
            torch.hub.set_dir(before)
