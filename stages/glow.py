"""Glow: an unconditional multi-scale flow. Source: Glow, section 3, https://arxiv.org/abs/1807.03039."""

from __future__ import annotations

from stages.actnorm import ActNormInv1x1
from stages.bijection import Bijection, Chain, Identity, Split, Squeeze
from stages.coupling import scale_function
from stages.flow import Flow, check_size
from stages.integers.dequantise import dequantiser
from stages.integers.mixture import LogisticMixture, MixtureSettings, without_steps
from stages.integers.support import PixelSupport
from stages.mixture_coupling import make_coupling
from stages.nets import NetMaker, net_maker
from stages.prior import SplitPrior
from stages.steps import Steps


def glow(
    shape: tuple[int, int, int],
    levels: int = 3,
    steps: int = 32,
    width: int = 512,
    squish: float = 0.5,
    squish_range: str = "sigmoid",
    coupling: str = "affine",
    components: int = 4,
    nets: str = "conv",
    net_blocks: int = 1,
    permutation: str = "dense",
    classes: int = 0,
    first: MixtureSettings | None = None,
    dequantise: str = "uniform",
    dequantise_steps: int = 4,
    bits: int = 8,
    label_optional: bool = False,
) -> Flow:
    """A Glow for images (C, H, W) with L levels of K steps each.

    A level is: squeeze → K × (ActNorm → invertible 1×1 convolution → coupling) → prior of the half
    that is split off → the next level, on the other half.

    Args:
        shape: (C, H, W); H and W divisible by 2^L.
        levels: L.
        steps: K.
        width: hidden channels of the coupling nets.
        squish: the smallest scale α of a coupling, in [0, 1), see `scale_function`.
        squish_range: ``sigmoid`` or ``symmetric``, see `scale_function`.
        coupling: ``affine``, ``additive`` or ``mixture``, see `make_coupling`.
        components: logistics of a mixture coupling.
        nets: ``conv``, ``gated`` or ``vit``, the nets of couplings and priors, see `net_maker`.
        net_blocks: residual blocks of nets that have some.
        permutation: ``dense`` or ``lu``, the parametrisation of the 1×1 convolution.
        classes: number of classes; 0 is an unconditional flow.
        first: a mixture of logistics comes before the levels, see `LogisticMixture`; None for none.
        dequantise: ``uniform`` or ``variational``, see `dequantiser`.
        dequantise_steps: couplings of a variational dequantisation.
        bits: n of the integers v that these read, y = (v + u)/2ⁿ − ½.
        label_optional: whether the flow may be used without labels, see `Flow`.

    Raises:
        InputError: if H or W is not divisible by 2^L, for no steps without ``first``, or for a
            wrong ``squish``, ``squish_range`` or ``dequantise``.

    Example:
        >>> import torch
        >>> flow = glow((3, 8, 8), levels=2, steps=1, width=8)
        >>> x = torch.rand(4, 3, 8, 8) - 0.5
        >>> z, log_det = flow.encode(x)  # noise of the same shape, and nats
        >>> z.shape, log_det.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4]))
        >>> torch.allclose(flow.decode(z), x, atol=1e-4)
        True
    """
    check_size("Glow", *shape[1:], levels)
    scale_fn = scale_function(squish, squish_range)

    def step(channels: int, net: NetMaker) -> list[Bijection]:
        first = ActNormInv1x1(channels, permutation)
        return [first, make_coupling(coupling, channels, width, scale_fn, components, net=net)]

    def level(channels: int, remaining: int) -> Bijection:
        net = net_maker(nets, net_blocks, coarsest=remaining == 1)
        parts = [part for _ in range(steps) for part in step(channels, net)]
        if remaining == 1:
            return Steps(parts)
        next_level = Squeeze(level(4 * (channels // 2), remaining - 1))
        return Chain(Steps([*parts, SplitPrior(channels, width, net=net)]), Split(next_level))

    channels = 4 * shape[0]
    support = PixelSupport(bits, relative=False)
    mixture = LogisticMixture(support, shape[0], 0, first, classes) if first else None
    alone = without_steps(steps, levels, first, dequantise)
    body: Bijection = Identity() if alone else Squeeze(level(channels, levels))
    bins = dequantiser(dequantise, channels, width, bits, dequantise_steps)
    return Flow(
        body, shape, levels, classes, dequantiser=bins, mixture=mixture,
        label_optional=label_optional,
    )  # fmt: skip
