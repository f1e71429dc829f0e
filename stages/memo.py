"""Constants made of a module's own weights, kept for as long as the weights stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import nn

Made = TypeVar("Made")


class Remembering(nn.Module):
    """A module that keeps what it made of its weights, in evaluation and without gradients.

    Weights that were changed, loaded, moved or exchanged are recognised, unless behind autograd's
    back (through ``.data``, or by a fused optimiser); a change of mode forgets everything.
    """

    def train(self, mode: bool = True) -> Remembering:
        """`nn.Module.train`, which forgets what was kept where the mode changes."""
        if mode != self.training:
            self.__dict__.pop("_kept", None)
        return super().train(mode)

    def remembered(
        self, name: object, make: Callable[[], Made], modules: Iterable[nn.Module]
    ) -> Made:
        """``make()``, or what it gave for the same weights of ``modules`` before."""
        if self.training or torch.is_grad_enabled():
            return make()
        weights = [tensor for module in modules for tensor in module.parameters()]
        if any(weight.is_inference() for weight in weights):  # of which changes are not counted
            return make()
        key = [(t.data_ptr(), t._version, t.dtype, t.device) for t in weights]
        kept = self.__dict__.setdefault("_kept", {})
        if name not in kept or kept[name][0] != key:
            kept[name] = key, make()
        return kept[name][1]
