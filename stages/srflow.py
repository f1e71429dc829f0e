"""SRFlow: a flow that doubles the resolution of an image. Source: https://arxiv.org/abs/2006.14200."""

from __future__ import annotations

from stages.actnorm import ActNormInv1x1
from stages.bijection import Bijection, Chain, Identity, Split, Squeeze
from stages.coupling import AffineInjector, InjectorNets, scale_function
from stages.encoder import Encoder, ResidualEncoder
from stages.errors import InputError
from stages.flow import Flow, check_size
from stages.integers.dequantise import dequantiser
from stages.integers.downscaler import Downscaler
from stages.integers.mixture import LogisticMixture, MixtureSettings, without_steps
from stages.integers.support import ChromaSupport, DetailSupport, HoleSupport, PixelSupport, Support
from stages.mixture_coupling import make_coupling
from stages.nets import NetMaker, net_maker
from stages.prior import SplitPrior
from stages.steps import Steps


def srflow(
    shape: tuple[int, int, int],
    levels: int = 4,
    steps: int = 16,
    width: int = 64,
    squish: float = 0.5,
    squish_range: str = "sigmoid",
    coupling: str = "affine",
    components: int = 4,
    nets: str = "conv",
    net_blocks: int = 1,
    permutation: str = "dense",
    injector: bool = True,
    transition_steps: int = 2,
    conditional_prior: bool = False,
    residual: bool = False,
    details: bool = False,
    chroma: bool = False,
    holes: bool = False,
    condition_on_sigma: bool = False,
    squish_injector: bool = True,
    classes: int = 0,
    encoder_features: int = 64,
    encoder_growth: int = 32,
    encoder_blocks: int = 23,
    encoder: str = "rrdb",
    first: MixtureSettings | None = None,
    dequantise: str = "uniform",
    dequantise_steps: int = 4,
    bits: int = 8,
    label_optional: bool = False,
    downscaler: int = 0,
) -> Flow:
    """An SRFlow for images (C, H, W), given low-resolution images (C, H/2, W/2).

    A level is: squeeze → transition steps (ActNorm → invertible 1×1 convolution) → K × (ActNorm →
    invertible 1×1 convolution → affine injector → conditional coupling) → prior of the half that is
    split off → the next level, on the other half.

    Args:
        shape: (C, H, W); H and W divisible by 2^L.
        levels: L.
        steps: K.
        width: hidden channels of the nets of couplings and injectors.
        squish: the smallest scale α of couplings and injectors, in [0, 1), see `scale_function`.
        squish_range: ``sigmoid`` or ``symmetric``, see `scale_function`.
        coupling: ``affine``, ``additive`` or ``mixture``, see `make_coupling`.
        components: logistics of a mixture coupling.
        nets: ``conv``, ``gated`` or ``vit``, the nets of couplings and priors, see `net_maker`.
        net_blocks: residual blocks of nets that have some.
        permutation: ``dense`` or ``lu``, the parametrisation of the 1×1 convolution.
        injector: whether steps have an affine injector.
        transition_steps: transition steps at the start of each level.
        conditional_prior: the priors of the split-off halves read the features too.
        residual: the flow models the image minus the upsampled low image.
        details: the flow models Haar details (3C, H/2, W/2) instead of the image; its first level
            has no squeeze.
        chroma: the flow models an image's chroma (2, H, W) instead, given its luma (1, H, W), see
            `ChromaSupport`; C is 3, and its first level has no squeeze. It needs ``first``.
        holes: the flow completes an image of which some pixels are given, see `HoleSupport`: it
            reads (C + 1, H, W). It needs ``first``.
        condition_on_sigma: the encoder reads one more channel: σ of the noise that the low image
            was disturbed with, see `Flow`.
        squish_injector: ``squish`` limits injectors too; otherwise their α is 0.
        classes: number of classes; 0 is a flow without classes.
        encoder_features: channels of the encoder's trunk.
        encoder_growth: channels of each hidden convolution of a dense block.
        encoder_blocks: number of blocks of the encoder.
        encoder: ``rrdb``, see `Encoder`, or ``residual``, see `ResidualEncoder`.
        first: a mixture of logistics comes before the levels, see `LogisticMixture`; None for none.
            Details are then lh, and the upper and the lower row's own h, see `DetailSupport`.
        dequantise: ``uniform`` or ``variational``, see `dequantiser`.
        dequantise_steps: couplings of a variational dequantisation.
        bits: n of the integers v that these read, y = (v + u)/2ⁿ − ½.
        label_optional: whether the flow may be used without labels, see `Flow`.
        downscaler: hidden channels of the net that low images are made by, see `Downscaler`; 0 for
            low images that something else makes.

    Raises:
        InputError: if H or W is not divisible by 2^L, for ``residual`` together with ``details`` or
            ``first``, for no steps without ``first``, or for a wrong ``squish``, ``squish_range``
            or ``dequantise``.

    Example:
        >>> import torch
        >>> flow = srflow((3, 8, 8), levels=1, steps=1, width=8, encoder_blocks=1)
        >>> low = torch.rand(2, 3, 4, 4) - 0.5
        >>> flow.sample(torch.randn(2, 3, 8, 8), low).shape
        torch.Size([2, 3, 8, 8])
    """
    check_size("SRFlow", *shape[1:], levels)
    if details and residual:
        raise InputError("details are a residual already: set residual or details, not both")
    if (chroma or holes) and not first:
        raise InputError("chroma and holes are of integers: they need first")
    if details + chroma + holes > 1:
        raise InputError("a flow is of details, of chroma or of holes: set one of them")
    if first and residual:
        raise InputError("a mixture is of integers, which a residual is not: set one of them")
    scale_fn = scale_function(squish, squish_range)
    injector_scale_fn = scale_fn if squish_injector else scale_function(0.0)
    support: Support = PixelSupport(bits, relative=True)
    image_channels, rows, columns = shape
    if details:
        support, rows, columns = DetailSupport(bits), rows // 2, columns // 2
    elif chroma:
        support, image_channels = ChromaSupport(bits), 1
    elif holes:
        support = HoleSupport(bits)
    seen = 4 * (image_channels + 1) if holes else image_channels + condition_on_sigma
    reader: Encoder
    if encoder == "residual":
        reader = ResidualEncoder(seen, encoder_features, encoder_blocks, levels)
    elif encoder == "rrdb":
        reader = Encoder(seen, encoder_features, encoder_growth, encoder_blocks, levels)
    else:
        raise InputError(f"encoder is 'rrdb' or 'residual', got {encoder!r}")

    def step(channels: int, net: NetMaker) -> list[Bijection]:
        last = make_coupling(coupling, channels, width, scale_fn, components, True, net)
        first = ActNormInv1x1(channels, permutation)
        return [first, *([AffineInjector()] if injector else []), last]

    def level(channels: int, remaining: int) -> Bijection:
        net = net_maker(nets, net_blocks, coarsest=remaining == 1)
        parts: list[Bijection] = []
        parts += [ActNormInv1x1(channels, permutation) for _ in range(transition_steps)]
        parts += [part for _ in range(steps) for part in step(channels, net)]
        injections = InjectorNets(steps, channels, width, injector_scale_fn) if injector else None
        if remaining == 1:
            return Steps(parts, reader.channels, injections)
        parts.append(SplitPrior(channels, width, conditional_prior, net))
        next_level = Squeeze(level(4 * (channels // 2), remaining - 1))
        return Chain(Steps(parts, reader.channels, injections), Split(next_level))

    channels = support.groups * image_channels
    features, squeezed = reader.channels, not (details or chroma)
    shape = shape if squeezed else (channels, rows, columns)
    body: Bijection
    if without_steps(steps, levels, first, dequantise):
        body = Identity()
    else:
        body = Squeeze(level(channels, levels)) if squeezed else level(channels, levels)
    bins = dequantiser(dequantise, channels, width, bits, dequantise_steps, features, squeezed)
    mixture = LogisticMixture(support, image_channels, features, first, classes) if first else None
    lowers = Downscaler(image_channels, downscaler, bits) if downscaler else None
    return Flow(
        body, shape, levels, classes, encoder=reader, residual=residual, squeezed=squeezed,
        dequantiser=bins, mixture=mixture, label_optional=label_optional, holes=holes,
        downscaler=lowers,
    )  # fmt: skip
