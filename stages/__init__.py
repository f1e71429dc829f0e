"""One stage of a cascade: bijections, the nets inside them, Glow and SRFlow."""

from stages.bijection import Bijection, Chain, OnHalf, Squeezed
from stages.errors import InputError, Remark, SaidElsewhere
from stages.flow import Flow, StageLoss
from stages.glow import glow
from stages.norm import initialise
from stages.srflow import srflow

__all__ = [
    "Bijection",
    "Chain",
    "Flow",
    "InputError",
    "OnHalf",
    "Remark",
    "SaidElsewhere",
    "Squeezed",
    "StageLoss",
    "glow",
    "initialise",
    "srflow",
]
