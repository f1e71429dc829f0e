"""Normalizing flows of images: bijections and their combinators, Glow and SRFlow.

`glow` and `srflow` build complete flows. To assemble another one, combine bijections with `Chain`,
`Squeeze` and `Split`, and wrap the result in a `Flow` (docs/own-flow.md).
"""

from stages.actnorm import ActNorm, ActNormInv1x1, initialise
from stages.bijection import (
    Bijection,
    Chain,
    Cond,
    Identity,
    Split,
    Squeeze,
    merge_latents,
    split,
    split_latents,
)
from stages.coupling import (
    AffineCoupling,
    AffineInjector,
    Coupling,
    InjectorNets,
    scale_function,
)
from stages.encoder import Encoder
from stages.errors import InputError, InputWarning, ReportedElsewhere
from stages.flow import Flow, StageLoss
from stages.glow import glow
from stages.integers.dequantise import Dequantiser
from stages.integers.mixture import LogisticMixture, MixtureSettings
from stages.mixture_coupling import MixtureCoupling
from stages.prior import ClassPrior, SplitPrior
from stages.srflow import srflow
from stages.steps import Steps

__all__ = [
    "ActNorm",
    "ActNormInv1x1",
    "AffineCoupling",
    "AffineInjector",
    "Bijection",
    "Chain",
    "ClassPrior",
    "Cond",
    "Coupling",
    "Dequantiser",
    "Encoder",
    "Flow",
    "Identity",
    "InjectorNets",
    "InputError",
    "InputWarning",
    "LogisticMixture",
    "MixtureCoupling",
    "MixtureSettings",
    "ReportedElsewhere",
    "Split",
    "SplitPrior",
    "Squeeze",
    "StageLoss",
    "Steps",
    "glow",
    "initialise",
    "merge_latents",
    "scale_function",
    "split",
    "split_latents",
    "srflow",
]
