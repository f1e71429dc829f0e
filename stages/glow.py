"""Glow: an unconditional multi-scale flow. Source: Kingma and Dhariwal, 2018."""

from __future__ import annotations

from stages.bijection import Bijection, Chain, OnHalf, Squeezed
from stages.coupling import Coupling, SplitPrior
from stages.flow import Flow, check_size
from stages.linear import Mix
from stages.scale import scale_law
from stages.steps import Steps


def glow(
    shape: tuple[int, int, int],
    levels: int = 3,
    steps: int = 32,
    width: int = 512,
    squish: float = 0.5,
    squish_range: str = "sigmoid",
    coupling: str = "affine",
    permutation: str = "dense",
    classes: int = 0,
) -> Flow:
    """An unconditional stage for images (C, H, W): L ``levels`` of K ``steps`` each.

    ``width`` is the channels of the coupling nets, ``squish`` the least scale α of a coupling,
    ``coupling`` affine or additive, ``permutation`` dense or lu, see `stages.linear`. A level is:
    squeeze, steps of actnorm, 1×1 and coupling, the prior of the dropped half, and the kept half's
    level. Raises `InputError` for a shape the levels do not divide.
    """
    check_size("Glow", *shape[1:], levels)
    law = None if coupling == "additive" else scale_law(squish, squish_range)

    def step(channels: int) -> list[Bijection]:
        return [Mix(channels, permutation), Coupling(channels, width, law)]

    def level(channels: int, left: int) -> Bijection:
        parts = [part for _ in range(steps) for part in step(channels)]
        if left == 1:
            return Steps(parts)
        deeper = Squeezed(level(4 * (channels // 2), left - 1))
        return Chain(Steps([*parts, SplitPrior(channels, width)]), OnHalf(deeper))

    return Flow(Squeezed(level(4 * shape[0], levels)), shape, levels, classes)
