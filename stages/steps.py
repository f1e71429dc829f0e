"""The steps of one level of a flow, with everything that does not depend on the image precomputed.

Source: Glow, section 3 (step of flow), https://arxiv.org/abs/1807.03039; SRFlow (conditional flow
step), https://arxiv.org/abs/2006.14200.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stages.actnorm import ActNormInv1x1, ConvActNorm
from stages.bijection import Bijection, Cond, compose
from stages.convolve import WIDE
from stages.coupling import AffineInjector, Coupling, InjectorNets
from stages.nets import CouplingNet
from stages.reversible import compose_reversible

Constants = TypeVar("Constants")


class WeightCache(nn.Module):
    """A module that caches values computed from weights, in evaluation mode without gradients.

    A cached value is valid as long as the weights are the same tensors, unchanged: an optimiser's
    step, `load_state_dict` and `to` are noticed. Changes that autograd does not count (through
    ``.data``, or by a fused optimiser) are not, but a change between training and evaluation mode
    empties the cache.
    """

    def train(self, mode: bool = True) -> WeightCache:
        """`nn.Module.train`; empties the cache if the mode changes."""
        if mode != self.training:
            self.__dict__.pop("_cache", None)
        return super().train(mode)

    def cached(
        self, name: object, compute: Callable[[], Constants], modules: Iterable[nn.Module]
    ) -> Constants:
        """The result of ``compute()``, cached while the weights of ``modules`` stay the same.

        Compiled code takes what is cached as it is: call `prepare` before it.
        """
        if self.training or torch.is_grad_enabled():
            return compute()
        if torch.compiler.is_compiling():
            kept = self.__dict__.get("_cache", {})
            return kept[name][1] if name in kept else compute()
        weights = [tensor for module in modules for tensor in module.parameters()]
        if any(weight.is_inference() for weight in weights):  # their changes are not counted
            return compute()
        key = [(t.data_ptr(), t._version, t.dtype, t.device) for t in weights]
        cache = self.__dict__.setdefault("_cache", {})
        if name not in cache or cache[name][0] != key:
            cache[name] = key, compute()
        return cache[name][1]


class Steps(WeightCache, Bijection):
    """Bijections one after the other, as `Chain`, with shared computations for all of them.

    - The affine maps of all `ActNormInv1x1` layers, with their determinants or inverses, are
      computed in one call, and cached in evaluation mode.
    - The weights of all coupling nets are folded in one call, where activations are stored.
    - A convolution of (x, features) is a convolution of x plus one of the features. The features'
      part of the first convolution of all couplings and injectors is one wide convolution,
      ``project``, of which each of them gets a slice.

    Args:
        parts: the bijections, all of the same number of channels.
        features: channels of the feature map of this level; 0 if no part is conditional.
        injections: the nets of all affine injectors among the parts.

    If ``reversible`` is set, the backward pass reconstructs activations (`compose_reversible`).
    The condition may have fewer images than x: B for n·B, those of one condition one after the
    other.
    """

    reversible = False

    def __init__(
        self, parts: Sequence[Bijection], features: int = 0, injections: InjectorNets | None = None
    ):
        super().__init__()
        self.parts: Any = nn.ModuleList(parts)
        # the places of parts that get something of their own
        self.linears = [i for i, part in enumerate(parts) if isinstance(part, ActNormInv1x1)]
        self.injectors = [i for i, part in enumerate(parts) if isinstance(part, AffineInjector)]
        self.conditional_couplings = [
            i for i, p in enumerate(parts) if isinstance(p, Coupling) and p.cond_channels
        ]
        self.injections = injections
        widths: list[Any] = [injections.cond_channels] if injections else []
        self.widths = widths + [parts[i].cond_channels for i in self.conditional_couplings]
        if self.widths:
            self.project = ConvActNorm(features, sum(self.widths), 3)
        self.alike: dict[Any, list[int]] = {}  # places of couplings whose nets are of one shape
        for i, part in enumerate(parts):
            if isinstance(part, Coupling) and type(part.net) is CouplingNet:
                shape = tuple(weight.shape for weight in part.net.parameters())
                self.alike.setdefault(shape, []).append(i)

    def feature_conditions(self, cond: Cond) -> list[Cond]:
        """The condition of each part, as far as it is computed from the feature map ``cond[0]``."""
        conds: list[Cond] = [()] * len(self.parts)
        if self.widths:
            slices = list(self.project(cond[0]).split(self.widths, dim=1))
            if self.injections:
                affines = self.injections(slices.pop(0))
                for i, affine in zip(self.injectors, affines, strict=True):
                    conds[i] = affine
            for i, hidden in zip(self.conditional_couplings, slices, strict=True):
                conds[i] = (hidden,)
        return conds

    def _fold(self, net: CouplingNet) -> bool:
        """Whether weights of nets like this one are folded together, which copies them.

        Else each net folds its own: where memory is short, and wide ones on a CPU, which loses more
        by copies than by operators.
        """
        weight = net.first.conv.weight
        wide_on_cpu = weight.device.type == "cpu" and len(weight) >= WIDE
        return not (self.reversible or net.recompute or wide_on_cpu)

    def constants(self, inverse: bool) -> tuple[Tensor, Tensor, Tensor]:
        """`ActNormInv1x1.affine_constants` of all such parts, of which there are some."""
        layers = [self.parts[i] for i in self.linears]
        return self.cached(inverse, lambda: ActNormInv1x1.affine_constants(layers, inverse), layers)

    def _conditions(self, cond: Cond, x: Tensor, inverse: bool) -> list[Cond]:
        """The condition of each part, for images like x and one direction."""
        conds = self.feature_conditions(cond)
        if self.linears:
            affines = ActNormInv1x1.conditions(self.constants(inverse), x)
            for i, affine in zip(self.linears, affines, strict=True):
                conds[i] = affine
        for places in self.alike.values():
            couplings = [i for i in places if isinstance(self.parts[i], Coupling)]  # or left out
            nets = [self.parts[i].net for i in couplings]
            if nets and self._fold(nets[0]):
                for i, folded in zip(couplings, CouplingNet.fold(nets), strict=True):
                    conds[i] += folded
        return conds

    def forward(self, x: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        conds = self._conditions(cond, x, inverse=False)
        if self.reversible and torch.is_grad_enabled():
            return compose_reversible(x, list(self.parts), conds)
        return compose(x, self.parts, conds)

    def inverse(self, z: Tensor, cond: Cond = ()) -> tuple[Tensor, Tensor]:
        maps = [part.inverse for part in reversed(self.parts)]
        return compose(z, maps, self._conditions(cond, z, inverse=True)[::-1])


@torch.no_grad()
def prepare(module: nn.Module) -> None:
    """Compute what the `Steps` in a module cache, for compiled code, in evaluation mode."""
    for steps in module.modules():
        if isinstance(steps, Steps) and steps.linears:
            for inverse in (False, True):
                steps.constants(inverse)
