"""A flow without its priors: what it makes of an image before any latent is whitened."""

from __future__ import annotations

from copy import deepcopy

from torch import Tensor

from stages.bijection import Bijection, Cond
from stages.coupling import SplitPrior
from stages.flow import Flow


class Identity(Bijection):
    """z = x, log_det = 0."""

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return x, x.new_zeros(len(x))

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        return z, z.new_zeros(len(z))


def unwhitened(flow: Flow) -> Flow:
    """The same flow with every prior map, of dropped halves and classes, replaced by the identity.

    Its weights are those of ``flow``, shared. Noise added to its latents is not scaled by their
    predicted deviations. It takes no labels.
    """
    weights = {id(tensor): tensor for tensor in (*flow.parameters(), *flow.buffers())}
    bare = deepcopy(flow, weights)
    bare.classes = 0
    for module in list(bare.modules()):
        for name, part in module.named_children():
            if isinstance(part, SplitPrior):
                setattr(module, name, Identity())
    return bare
