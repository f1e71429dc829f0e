"""The configuration of one stage: dataclasses, read and checked by OmegaConf."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

from omegaconf import MISSING, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from cascade.files import whole
from stages import InputError


@dataclass
class Data:
    name: str = MISSING  # a built-in data set, a folder of images, or an .npz
    size: int = MISSING  # side of this stage's images
    channels: int = 3
    split: str = "train"  # train or trainval
    bits: int = 8
    flip: bool = False
    resize: int | None = None  # shorter side of a folder's images is brought to this, then cropped
    skip_bad: bool = False  # leave unreadable images out, and say how many
    root: str = "data"  # where downloads go


@dataclass
class Model:
    kind: str = MISSING
    levels: int = 3
    steps: int = 32
    width: int = 512
    squish: float = 0.0
    squish_range: str = "sigmoid"
    coupling: str = "affine"
    classes: int = 0
    class_weight: float = 0.01  # λ_c
    class_loss: str = "bce"  # bce or softmax


@dataclass
class GlowModel(Model):
    pass


@dataclass
class SRFlowModel(Model):
    levels: int = 4
    steps: int = 16
    width: int = 64
    squish: float = 0.5
    injector: bool = True
    transition_steps: int = 2
    conditional_prior: bool = False
    residual: bool = False
    encoder_features: int = 64
    encoder_growth: int = 32
    encoder_blocks: int = 23


@dataclass
class Train:
    steps: int = MISSING
    batch_size: int = MISSING  # over all processes
    optimizer: str = "adamax"  # adamax or adam
    lr: float = MISSING
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    weight_decay: float = 0.0
    warmup: int = 0  # steps of linear warm-up
    schedule: str = "constant"  # constant, halve (at milestones) or cosine (to zero)
    milestones: list[int] = field(default_factory=list)
    clip: float = 100.0  # largest gradient norm
    ema: float = 0.999  # 0 turns it off
    precision: str = "no"  # no or bf16
    init_images: int = 512  # images that ActNorm is fitted to
    log_every: int = 20
    save_every: int = 1000
    sample_every: int = 1000
    validate_images: int = 256
    resume: str = "auto"  # auto or never


@dataclass
class StageConfig:
    out: str = MISSING
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)


KINDS = {"glow": GlowModel, "srflow": SRFlowModel}
CHOICES = {
    "data.split": ("train", "trainval"),
    "model.squish_range": ("sigmoid", "symmetric"),
    "model.coupling": ("affine", "additive"),
    "model.class_loss": ("bce", "softmax"),
    "train.optimizer": ("adamax", "adam"),
    "train.schedule": ("constant", "halve", "cosine"),
    "train.precision": ("no", "bf16"),
    "train.resume": ("auto", "never"),
}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> StageConfig:
    """Read a stage's YAML file, apply ``key=value`` overrides, and check the result.

    Raises `InputError` for a missing file, a key that no stage of this kind has (with the nearest
    one that it has), a value of the wrong type, or one that cannot work.
    """
    for override in overrides:
        if "=" not in override:
            raise InputError(f"{override!r} is not of the form key=value")
    try:
        given = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        kind = OmegaConf.select(given, "model.kind")
        if kind not in KINDS:
            raise InputError(f"{path}: model.kind must be one of {', '.join(KINDS)}, got {kind!r}")
        schema = OmegaConf.structured(StageConfig(model=KINDS[kind]()))
        config = OmegaConf.to_object(OmegaConf.merge(schema, given))
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"no configuration file {path}") from None
    except (ConfigKeyError, MissingMandatoryValue) as error:
        raise InputError(f"{path}: {_explain(error, kind)}") from None
    except (OmegaConfBaseException, YAMLError) as error:
        raise InputError(f"{path}: {str(error).splitlines()[0]}") from None
    check(config)
    return config


def save_config(config: StageConfig, path: Path) -> None:
    """Write the whole resolved configuration as YAML."""
    with whole(path) as aside:
        OmegaConf.save(OmegaConf.structured(config), aside)


def check(config: StageConfig) -> None:
    """Raise `InputError` for values that cannot work, before any work starts."""
    for key, allowed in CHOICES.items():
        value = OmegaConf.select(OmegaConf.structured(config), key)
        if value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(allowed)}, got {value!r}")
    for key, value, least in (
        ("data.size", config.data.size, 1),
        ("data.bits", config.data.bits, 1),
        ("model.levels", config.model.levels, 1),
        ("model.width", config.model.width, 1),
        ("model.classes", config.model.classes, 0),
        ("train.steps", config.train.steps, 0),
        ("train.batch_size", config.train.batch_size, 1),
        ("train.log_every", config.train.log_every, 1),
        ("train.save_every", config.train.save_every, 1),
        ("train.sample_every", config.train.sample_every, 1),
        ("train.init_images", config.train.init_images, 1),
    ):
        if value < least:
            raise InputError(f"{key} must be at least {least}, got {value}")
    if config.data.bits > 8:
        raise InputError(f"data.bits must be at most 8, got {config.data.bits}")
    if config.data.channels not in (1, 3):
        raise InputError(f"data.channels must be 1 or 3, got {config.data.channels}")
    if not 0 <= config.train.ema < 1:
        raise InputError(f"train.ema must lie in [0, 1), got {config.train.ema}")


def _explain(error: OmegaConfBaseException, kind: str) -> str:
    key = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is not set"
    known = _keys(StageConfig(model=KINDS[kind]()))
    close = difflib.get_close_matches(key, known, n=1) or difflib.get_close_matches(
        key.split(".")[-1], [name.split(".")[-1] for name in known], n=1
    )
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"a {kind} stage has no setting {key}{hint}"


def _keys(config: object, prefix: str = "") -> list[str]:
    names = []
    for item in fields(config):
        value = getattr(config, item.name)
        inner = _keys(value, f"{prefix}{item.name}.") if is_dataclass(value) else []
        names += inner or [prefix + item.name]
    return names
