"""Labels as conditions: a class, no class, or any multiple of what a class adds.

A class c adds a vector e_c to what a net reads, or to a prior's parameters, and no class adds
nothing. A label left out in training teaches the same net the distribution without one, and
multiples w·e_c lead on from there: w = 0 is without a label, w = 1 with it, above 1 is guidance.

Source: Ho and Salimans, Classifier-free diffusion guidance, section 3.2 (labels dropped at random,
one net for both), https://arxiv.org/abs/2207.12598
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_LABEL = -1


class ClassTable(nn.Embedding):
    """Vectors e_c, one a class, all 0 at first.

    Args:
        classes: number of classes.
        width: of the vectors.
    """

    def __init__(self, classes: int, width: int):
        super().__init__(classes, width)
        nn.init.zeros_(self.weight)

    def forward(self, label: Tensor) -> Tensor:
        """What labels add, (B, width).

        ``label`` holds classes, int64 (B,), where `NO_LABEL` adds nothing; or multiples of every
        class's vector, floats (B, classes).
        """
        if label.is_floating_point():
            return label.to(self.weight) @ self.weight
        known = (label != NO_LABEL).to(self.weight.dtype)
        return super().forward(label.clamp(min=0)) * known[:, None]


def guided(label: Tensor, classes: int, strength: float) -> Tensor:
    """``strength`` times what each label (B,) adds, as multiples (B, ``classes``)."""
    known = (label != NO_LABEL)[:, None]
    return strength * (F.one_hot(label.clamp(min=0), classes) * known).to(torch.float32)
