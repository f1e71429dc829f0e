"""The configuration of one stage: what it holds, how it is read, what it must fulfil."""

from cascade.config.reading import load_config, load_saved, save_config
from cascade.config.schema import (
    KINDS,
    Augment,
    ColourModel,
    Data,
    GlowModel,
    InpaintModel,
    Model,
    SRFlowModel,
    StageConfig,
    Train,
)

__all__ = [
    "KINDS",
    "Augment",
    "ColourModel",
    "Data",
    "GlowModel",
    "InpaintModel",
    "Model",
    "SRFlowModel",
    "StageConfig",
    "Train",
    "load_config",
    "load_saved",
    "save_config",
]
