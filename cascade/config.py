"""The configuration of one stage: dataclasses, read and checked by OmegaConf."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

from cascade.checks import check
from cascade.files import whole
from cascade.yamls import first_line, read_yaml
from stages import InputError, Remark


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
    allow_overlap: bool = False  # held-out images may be training images too
    root: str = "data"  # where downloads go
    classes: list[str] = field(default_factory=list)  # their names, filled in by training
    counts: list[int] = field(default_factory=list)  # training images a class, likewise
    fingerprint: str = ""  # SHA-256 of the training images, likewise


@dataclass
class Model:
    kind: str = MISSING
    levels: int = 3
    steps: int = 32
    width: int = 512
    squish: float = 0.5
    squish_range: str = "sigmoid"
    coupling: str = "affine"
    permutation: str = "dense"  # dense or lu: how the 1×1 is parametrised
    pyramid: str = "bicubic"  # bicubic or haar: where low images come from
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
    injector: bool = True
    transition_steps: int = 2
    conditional_prior: bool = False
    residual: bool = False
    squish_injector: bool = True
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
    warmup: int = 100  # steps of linear warm-up
    schedule: str = "constant"  # constant, halve (at milestones) or cosine (to zero)
    milestones: list[int] = field(default_factory=list)
    clip: float = 100.0  # largest gradient norm
    ema: float = 0.999  # 0 turns it off
    precision: str = "no"  # no or bf16
    accumulate: int = 1  # parts that each process computes its share of the batch in
    memory: str = "store"  # store, checkpoint or reversible: activations kept, or made again
    compile: bool = False  # whether torch.compile makes the training step
    skip_limit: int = 10  # steps in a row that may be skipped, their gradient not being finite
    pretrain_steps: int = 0  # of an SRFlow's encoder alone, by super-resolution, before the others
    pretrain_lr: float = 2.0e-4
    frozen_steps: int = 0  # first steps of the flow, in which the encoder stays as it is
    init_images: int = 512  # images that ActNorm is fitted to
    log_every: int = 20
    save_every: int = 1000
    sample_every: int = 1000
    validate_images: int = 256
    watch_sigmas: list[float] = field(default_factory=list)  # of noisy reconstructions, see docs
    keep: int = 2  # newest states kept to resume from
    trackers: list[str] = field(default_factory=list)  # tensorboard, wandb
    resume: str = "auto"  # auto, never, or force: auto, though the training images have changed


@dataclass
class Augment:
    previous: str | None = None  # the stage folder below: low images are disturbed in its latents
    sigma: Any = 0.0  # a number, a range [least, most], or a schedule {step: sigma}
    scaling: str = "whitened"  # whitened or raw
    condition: bool = False  # whether the stage is told each image's sigma
    refresh: int = 1  # steps for which an image's disturbed version is kept
    limit: float = 2.0  # |y| beyond which an image counts as exploded; images live in ±½
    digest: str = ""  # SHA-256 of the previous stage's weights, filled in by training


@dataclass
class StageConfig:
    out: str = MISSING
    seed: int = 0
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    train: Train = field(default_factory=Train)
    augment: Augment = field(default_factory=Augment)


KINDS = {"glow": GlowModel, "srflow": SRFlowModel}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> StageConfig:
    """Read a stage's YAML file, apply ``key=value`` overrides, and check the result.

    Raises `InputError` for a missing file, a key that no stage of this kind has (with the nearest
    one that it has), a value of the wrong type, or one that cannot work.
    """
    for override in overrides:
        if "=" not in override:
            raise InputError(f"{override!r} is not of the form key=value")
    try:
        given, changes = read_yaml(path), OmegaConf.from_dotlist(list(overrides))
        augment, sigma = given.get("augment"), OmegaConf.select(changes, "augment.sigma")
        if sigma is not None and isinstance(augment, DictConfig):
            augment.pop("sigma", None)  # a schedule is replaced, not added to
        given = OmegaConf.merge(given, changes)
        if OmegaConf.select(given, "train.precision") is False:
            given.train.precision = "no"  # which YAML reads as a truth value
        kind = OmegaConf.select(given, "model.kind")
        if not isinstance(kind, str) or kind not in KINDS:
            raise InputError(f"{path}: model.kind must be one of {', '.join(KINDS)}, got {kind!r}")
        schema = OmegaConf.structured(StageConfig(model=KINDS[kind]()))
        config = OmegaConf.to_object(OmegaConf.merge(schema, given))
    except InputError:
        raise
    except (FileNotFoundError, IsADirectoryError):
        raise InputError(f"no configuration file {path}") from None
    except (ConfigKeyError, MissingMandatoryValue) as error:
        raise InputError(f"{path}: {_explain(error, kind)}") from None
    except (OmegaConfBaseException, YAMLError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: {first_line(error)}") from None
    check(config)
    _leave_out_what_is_idle(config, path)
    return config


def _leave_out_what_is_idle(config: StageConfig, path: str | Path) -> None:
    """Say which settings do nothing beside the others, and do without them."""
    model, train = config.model, config.train
    if model.levels == 1 and getattr(model, "conditional_prior", False):
        model.conditional_prior = False
        idle = "model.conditional_prior does nothing at model.levels=1, which drops no half"
        warnings.warn(f"{path}: {idle}; it is left out", Remark, stacklevel=3)
    if train.milestones and train.schedule != "halve":
        train.milestones = []
        idle = f"train.milestones do nothing with train.schedule={train.schedule}"
        warnings.warn(f"{path}: {idle}; they are left out", Remark, stacklevel=3)


def save_config(config: StageConfig, path: Path) -> None:
    """Write the whole resolved configuration as YAML."""
    with whole(path) as aside:
        OmegaConf.save(OmegaConf.structured(config), aside)


def _explain(error: OmegaConfBaseException, kind: str) -> str:
    key = error.full_key
    if isinstance(error, MissingMandatoryValue):
        return f"{key} is not set"
    known = _keys(StageConfig(model=KINDS[kind]()))
    leaves = {name.split(".")[-1]: name for name in known}
    leaf = difflib.get_close_matches(key.split(".")[-1], leaves, n=1)
    close = difflib.get_close_matches(key, known, n=1) or [leaves[name] for name in leaf]
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"a {kind} stage has no setting {key}{hint}"


def _keys(config: object, prefix: str = "") -> list[str]:
    names = []
    for item in fields(config):
        value = getattr(config, item.name)
        inner = _keys(value, f"{prefix}{item.name}.") if is_dataclass(value) else []
        names += inner or [prefix + item.name]
    return names
