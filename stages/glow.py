"""Glow: an unconditional multi-scale flow. Source: Kingma and Dhariwal, 2018."""

from __future__ import annotations

from stages.bijection import Bijection, Chain, OnHalf, Squeezed
from stages.coupling import Coupling, SplitPrior
from stages.flow import Flow, check_size
from stages.linear import ActNorm, InvertibleConv
from stages.scale import ScaleLaw, scale_law


def _step(channels: int, width: int, law: ScaleLaw | None) -> list[Bijection]:
    return [ActNorm(channels), InvertibleConv(channels), Coupling(channels, width, law)]


def _level(channels: int, levels: int, steps: int, width: int, law: ScaleLaw | None) -> Bijection:
    """squeeze → steps → (prior of the dropped half → the kept half's level) → unsqueeze."""
    channels = 4 * channels
    parts = [part for _ in range(steps) for part in _step(channels, width, law)]
    if levels > 1:
        deeper = _level(channels // 2, levels - 1, steps, width, law)
        parts += [SplitPrior(channels, width), OnHalf(deeper)]
    return Squeezed(Chain(*parts))


def glow(
    shape: tuple[int, int, int],
    levels: int = 3,
    steps: int = 32,
    width: int = 512,
    squish: float = 0.0,
    squish_range: str = "sigmoid",
    coupling: str = "affine",
    classes: int = 0,
) -> Flow:
    """An unconditional stage for images (C, H, W): L ``levels`` of K ``steps`` each.

    ``width`` is the channels of the coupling nets, ``squish`` the least scale α of a coupling,
    ``coupling`` affine or additive. Raises `InputError` for a shape the levels do not divide.
    """
    check_size("Glow", *shape[1:], levels)
    law = None if coupling == "additive" else scale_law(squish, squish_range)
    return Flow(_level(shape[0], levels, steps, width, law), shape, levels, classes)
