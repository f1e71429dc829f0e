"""A backward pass that makes the activations again from the outputs, so that none need be kept."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from stages.bijection import Bijection, Cond, compose


def rewindable(
    x: Tensor, parts: Sequence[Bijection], conds: Sequence[Cond]
) -> tuple[Tensor, Tensor]:
    """Apply parts in turn, as `compose` does, keeping the last output alone for a backward pass.

    The backward pass goes through the parts from the last to the first: it inverts a part, runs it
    again on what it found, and takes that one part's gradients (`Bijection.rewind`). They are those
    of `compose`, up to rounding.
    """
    given = [tensor for cond in conds for tensor in cond]
    weights = [weight for part in parts for weight in part.parameters()]
    return _Rewindable.apply(parts, [len(cond) for cond in conds], x, *given, *weights)


class _Rewindable(torch.autograd.Function):
    """Conditions and weights are inputs, so that their gradients reach whoever waits for them."""

    @staticmethod
    def forward(ctx, parts, lengths, x, *tensors):
        ctx.parts, ctx.lengths = parts, lengths
        device = x.device.type
        ctx.autocast = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
        z, log_det = compose(x, parts, _handed_out(tensors, lengths))
        ctx.save_for_backward(z, *tensors)
        return z, log_det

    @staticmethod
    def backward(ctx, grad_z, grad_log_det):
        z, *tensors = ctx.saved_tensors
        conds = _handed_out(tensors, ctx.lengths)
        of_conds, of_weights = [], []  # gradients, the last part's first
        for part, cond in zip(reversed(ctx.parts), reversed(conds), strict=True):
            cond = tuple(c.detach().requires_grad_(c.requires_grad) for c in cond)
            weights = list(part.parameters())
            dtype, enabled = ctx.autocast
            with torch.enable_grad(), torch.autocast(z.device.type, dtype, enabled=enabled):
                leaves, output, log_det = part.rewind(z, cond)
            outputs = {output: grad_z, log_det: grad_log_det}
            found = _gradients(outputs, [*leaves, *cond, *weights])
            grad_z = torch.cat(found[: len(leaves)], dim=1)
            of_conds[:0] = found[len(leaves) : len(leaves) + len(cond)]
            of_weights[:0] = found[len(leaves) + len(cond) :]
            z = torch.cat(leaves, dim=1).detach()
        return None, None, grad_z, *of_conds, *of_weights


def _handed_out(tensors: Sequence[Tensor], lengths: Sequence[int]) -> list[Cond]:
    """The first tensors, in tuples of these lengths."""
    rest = iter(tensors)
    return [tuple(next(rest) for _ in range(length)) for length in lengths]


def _gradients(outputs: dict[Tensor, Tensor], inputs: Sequence[Tensor]) -> list[Tensor | None]:
    """What autograd gives for these inputs, None for those that take none."""
    outputs = {output: grad for output, grad in outputs.items() if output.requires_grad}
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    grads = torch.autograd.grad(list(outputs), wanted, list(outputs.values()), allow_unused=True)
    found = dict(zip(wanted, grads, strict=True))
    return [found.get(tensor) for tensor in inputs]
