"""SRFlow: a flow that doubles the resolution of an image. Source: Lugmayr et al., 2020."""

from __future__ import annotations

from stages.bijection import Bijection, Chain, OnHalf, Squeezed
from stages.coupling import Coupling, Injections, Injector, SplitPrior
from stages.encoder import Encoder
from stages.errors import InputError
from stages.flow import Flow, check_size
from stages.linear import Mix
from stages.scale import scale_law
from stages.steps import Steps


def srflow(
    shape: tuple[int, int, int],
    levels: int = 4,
    steps: int = 16,
    width: int = 64,
    squish: float = 0.5,
    squish_range: str = "sigmoid",
    coupling: str = "affine",
    permutation: str = "dense",
    injector: bool = True,
    transition_steps: int = 2,
    conditional_prior: bool = False,
    residual: bool = False,
    details: bool = False,
    told_sigma: bool = False,
    squish_injector: bool = True,
    classes: int = 0,
    encoder_features: int = 64,
    encoder_growth: int = 32,
    encoder_blocks: int = 23,
) -> Flow:
    """A stage for images (C, H, W) given low ones (C, H/2, W/2).

    With ``details`` the flow is not one of the image, but of the details (3C, H/2, W/2) that the
    low one lacks; its first level needs no squeeze.

    A level is: squeeze, ``transition_steps`` of actnorm and 1×1 alone, ``steps`` of actnorm,
    1×1, injector and coupling, then the prior of the dropped half, which reads the low image's
    features too if ``conditional_prior``. ``squish`` bounds coupling and injector alike, the latter
    only if ``squish_injector``. With ``told_sigma`` the low image may have one channel more, see
    `Flow`. Raises `InputError` for a shape the levels do not divide.
    """
    check_size("SRFlow", *shape[1:], levels)
    if details and residual:
        raise InputError("details are a residual already: set residual or details, not both")
    law = scale_law(squish, squish_range)
    injector_law = law if squish_injector else scale_law(0.0)
    encoder = Encoder(
        shape[0] + told_sigma, encoder_features, encoder_growth, encoder_blocks, levels
    )

    def step(channels: int) -> list[Bijection]:
        coupling_law = None if coupling == "additive" else law
        last = Coupling(channels, width, coupling_law, conditional=True)
        return [Mix(channels, permutation), *([Injector()] if injector else []), last]

    def level(channels: int, left: int) -> Bijection:
        parts: list[Bijection] = [Mix(channels, permutation) for _ in range(transition_steps)]
        parts += [part for _ in range(steps) for part in step(channels)]
        nets = Injections(steps, channels, width, injector_law) if injector else None
        if left == 1:
            return Steps(parts, encoder.channels, nets)
        parts.append(SplitPrior(channels, width, conditional_prior))
        deeper = Squeezed(level(4 * (channels // 2), left - 1))
        return Chain(Steps(parts, encoder.channels, nets), OnHalf(deeper))

    channels, rows, columns = shape
    if details:
        shape, body = (3 * channels, rows // 2, columns // 2), level(3 * channels, levels)
    else:
        body = Squeezed(level(4 * channels, levels))
    return Flow(body, shape, levels, classes, encoder, residual, squeezed=not details)
