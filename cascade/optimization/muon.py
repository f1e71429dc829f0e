"""Muon of `pytorch_optimizer`, in a precision that the processor is fast in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytorch_optimizer
import torch
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from torch import Tensor


class Muon(pytorch_optimizer.Muon):
    """Muon whose Newton-Schulz iteration is in float32 on a CPU, and in bfloat16 on a GPU.

    CPUs without bfloat16 arithmetic take 24 times as long for it in bfloat16, more than a training
    step of a small flow takes otherwise. Source: https://kellerjordan.github.io/posts/muon/.
    """

    @staticmethod
    def _orthogonalize(group: dict[str, Any], updates: Sequence[Tensor]) -> list[Tensor]:
        """The orthogonal factors of updates (O, ...), matrices of one shape or its transpose."""
        matrices = [update.flatten(1) for update in updates]
        tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
        wide = [m.mT if turned else m for m, turned in zip(matrices, tall, strict=True)]
        factors = zero_power_via_newton_schulz_5(
            torch.stack(wide),
            num_steps=group["ns_steps"],
            weights=group["ns_coeffs"],
            dtype=torch.float32 if updates[0].device.type == "cpu" else torch.bfloat16,
        )
        return [f.mT if turned else f for f, turned in zip(factors, tall, strict=True)]
