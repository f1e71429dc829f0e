"""Constants made of a module's own weights, kept for as long as the weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

Made = TypeVar("Made")


class Remembering(nn.Module):
    """A module that keeps what it made of its weights, in evaluation and without gradients.

    Weights that were changed in place, loaded, moved or exchanged are recognised, so that nothing
    has to be told to forget.
    """

    def remembered(
        self, name: object, make: Callable[[], Made], modules: Iterable[nn.Module]
    ) -> Made:
        """``make()``, or what it gave for the same weights of ``modules`` before."""
        if self.training or torch.is_grad_enabled():
            return make()
        weights = [tensor for module in modules for tensor in module.parameters()]
        key = [(t.data_ptr(), t._version, t.dtype, t.device) for t in weights]
        kept = self.__dict__.setdefault("_kept", {})
        if name not in kept or kept[name][0] != key:
            kept[name] = key, make()
        return kept[name][1]
