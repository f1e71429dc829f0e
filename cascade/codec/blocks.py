"""Blocks of images as bytes, by a range coder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from cascade.codec.fixed_stages import FixedCascade
from cascade.codec.mixtures import ODDS
from stages import InputError


def range_coder() -> Any:
    """The library that codes decisions; `InputError` where it is not installed."""
    try:
        import constriction
    except ImportError:
        raise InputError("compression needs a package: pip install 'csrflow[codec]'") from None
    return constriction.stream


class Encoder:
    """Takes decisions; ``bytes`` gives what it took them down to."""

    def __init__(self) -> None:
        stream = range_coder()
        self.coder = stream.queue.RangeEncoder()
        self.model = stream.model.Bernoulli(perfect=False)

    def __call__(self, odds: Tensor, bits: Tensor | None) -> Tensor:
        assert bits is not None
        self.coder.encode(bits.numpy().astype(np.int32), self.model, _shares(odds))
        return bits

    def bytes(self) -> bytes:
        return bytes(self.coder.get_compressed().astype("<u4").tobytes())


class Decoder:
    """Gives decisions. Raises `InputError` where the bytes cannot have been written."""

    def __init__(self, data: bytes):
        if len(data) % 4:
            raise InputError("damaged: a block is of whole words of 32 bits")
        stream = range_coder()
        self.coder = stream.queue.RangeDecoder(np.frombuffer(data, "<u4").astype(np.uint32))
        self.model = stream.model.Bernoulli(perfect=False)

    def __call__(self, odds: Tensor, bits: Tensor | None) -> Tensor:
        try:
            result = self.coder.decode(self.model, _shares(odds))
        except (AssertionError, ValueError) as error:
            raise InputError(f"damaged: {error}") from None
        return torch.from_numpy(result.astype(bool))


def _shares(odds: Tensor) -> Any:
    """Probabilities as the coder takes them: exact in float64, so that it rounds nothing."""
    return odds.numpy() / 2**ODDS


def encode(cascade: FixedCascade, images: Tensor) -> bytes:
    """A block of images uint8 (B, C, H, W)."""
    coder = Encoder()
    cascade.code(coder, len(images), images)
    return coder.bytes()


def decode(cascade: FixedCascade, data: bytes, count: int) -> Tensor:
    """The images uint8 (count, C, H, W) of a block.

    Raises `InputError` where the bytes are damaged in a way that is seen; others give other images.
    """
    return cascade.code(Decoder(data), count)
