"""A backward pass that makes the activations again from the outputs, so that none need be kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from stages.bijection import Bijection, Cond, compose

Trail = list[Tensor | None]  # the images between parts; one at a time, as a backward pass passes it


def rewindable(
    x: Tensor, parts: Sequence[Bijection], conds: Sequence[Cond]
) -> tuple[Tensor, Tensor]:
    """Apply parts in turn, as `compose` does, keeping the last output alone for a backward pass.

    The backward pass goes through the parts from the last to the first: it inverts a part, runs it
    again on what it found, and takes that one part's gradients (`Bijection.rewind`). They are those
    of `compose`, up to rounding.
    """
    trail: Trail = [None] * (len(parts) - 1)
    maps = [partial(_rewindable, part, trail, place) for place, part in enumerate(parts)]
    return compose(x, maps, conds)


def _rewindable(
    part: Bijection, trail: Trail, place: int, x: Tensor, cond: Cond
) -> tuple[Tensor, Tensor]:
    return _Rewindable.apply(part, trail, place, len(cond), x, *cond, *part.parameters())


class _Rewindable(torch.autograd.Function):
    """One part, which in a backward pass finds its output on the trail and leaves its input there.

    A part each, so that weights have their gradients before the next part's are made. Condition
    and weights are inputs, so that their gradients reach whoever waits for them.
    """

    @staticmethod
    def forward(
        ctx: Any, part: Bijection, trail: Trail, place: int, reads: int, x: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.part, ctx.trail, ctx.place, ctx.reads = part, trail, place, reads
        device = x.device.type
        ctx.autocast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        z, log_det = part(x, tensors[:reads])
        ctx.save_for_backward(z if place == len(trail) else None, *tensors)
        return z, log_det

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor, grad_log_det: Tensor) -> tuple[Any, ...]:
        z, *tensors = ctx.saved_tensors
        if z is None:
            z, ctx.trail[ctx.place] = ctx.trail[ctx.place], None
        cond = tuple(c.detach().requires_grad_(c.requires_grad) for c in tensors[: ctx.reads])
        dtype, enabled = ctx.autocast
        with torch.enable_grad(), torch.autocast(z.device.type, dtype, enabled=enabled):
            leaves, output, log_det = ctx.part.rewind(z, cond)
        outputs = {output: grad_z, log_det: grad_log_det}
        found: list[Any] = _gradients(outputs, [*leaves, *cond, *tensors[ctx.reads :]])
        if ctx.place:
            ctx.trail[ctx.place - 1] = torch.cat(leaves, dim=1).detach()
        of_x = torch.cat(found[: len(leaves)], dim=1)
        return None, None, None, None, of_x, *found[len(leaves) :]


def _gradients(outputs: dict[Tensor, Tensor], inputs: Sequence[Tensor]) -> list[Any]:
    """What autograd gives for these inputs, None for those that take none."""
    outputs = {output: grad for output, grad in outputs.items() if output.requires_grad}
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    grads = torch.autograd.grad(list(outputs), wanted, list(outputs.values()), allow_unused=True)
    found = dict(zip(wanted, grads, strict=True))
    return [found.get(tensor) for tensor in inputs]
