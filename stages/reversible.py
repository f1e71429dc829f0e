"""A backward pass that reconstructs activations from outputs, so that they need not be stored.

Source: RevNet, section 3, https://arxiv.org/abs/1707.04585.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.bijection import Bijection, Cond, compose

# Images between bijections. A backward pass fills one place at a time and empties it again.
Activations = list[Tensor | None]


def compose_reversible(
    x: Tensor, parts: Sequence[Bijection], conds: Sequence[Cond]
) -> tuple[Tensor, Tensor]:
    """`compose`, but only the output of the last bijection is stored for the backward pass.

    The backward pass goes from the last bijection to the first. For each it reconstructs the input
    from the output, runs the bijection again and takes its gradients (`Bijection.reconstruct`). The
    gradients equal those of `compose` up to rounding.
    """
    activations: Activations = [None] * (len(parts) - 1)
    maps = [partial(_apply, part, activations, place) for place, part in enumerate(parts)]
    return compose(x, maps, conds)


def _apply(
    part: Bijection, activations: Activations, place: int, x: Tensor, cond: Cond
) -> tuple[Tensor, Tensor]:
    return _Reversible.apply(part, activations, place, len(cond), x, *cond, *part.parameters())


class _Reversible(torch.autograd.Function):
    """One bijection. Its backward pass takes z from ``activations`` and puts x there.

    Each bijection is an autograd function of its own, so that the gradients of its weights are
    ready before those of the previous bijection are computed. Condition and weights are inputs of
    the function, so that autograd (and thus DDP) sees their gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        part: Bijection,
        activations: Activations,
        place: int,
        conds: int,
        x: Tensor,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.part, ctx.activations, ctx.place, ctx.conds = part, activations, place, conds
        device = x.device.type
        ctx.autocast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        z, log_det = part(x, tensors[:conds])
        ctx.save_for_backward(z if place == len(activations) else None, *tensors)
        return z, log_det

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:
        z, *tensors = ctx.saved_tensors
        if z is None:
            z, ctx.activations[ctx.place] = ctx.activations[ctx.place], None
        cond = tuple(c.detach().requires_grad_(c.requires_grad) for c in tensors[: ctx.conds])
        dtype, enabled = ctx.autocast
        with torch.enable_grad(), torch.autocast(z.device.type, dtype, enabled=enabled):
            leaves, output, log_det = ctx.part.reconstruct(z, cond)
        outputs = {output: grad_z, log_det: grad_log_det}
        grads: list[Any] = _gradients(outputs, [*leaves, *cond, *tensors[ctx.conds :]])
        if ctx.place:
            ctx.activations[ctx.place - 1] = torch.cat(leaves, dim=1).detach()
        grad_x = torch.cat(grads[: len(leaves)], dim=1)
        return None, None, None, None, grad_x, *grads[len(leaves) :]


def _gradients(outputs: dict[Tensor, Tensor], inputs: Sequence[Tensor]) -> list[Any]:
    """Autograd's gradients of ``inputs``, None for those that need none."""
    outputs = {output: grad for output, grad in outputs.items() if output.requires_grad}
    needed = [tensor for tensor in inputs if tensor.requires_grad]
    grads = torch.autograd.grad(list(outputs), needed, list(outputs.values()), allow_unused=True)
    by_tensor = dict(zip(needed, grads, strict=True))
    return [by_tensor.get(tensor) for tensor in inputs]
