"""What settings must fulfil, before any work starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.config.schema import StageConfig
from cascade.config.sigma import LARGEST, check_sigma
from stages import InputError

TRACKERS = ("tensorboard", "wandb")
CHOICES = {
    "data.split": ("train", "trainval"),
    "model.squish_range": ("sigmoid", "symmetric"),
    "model.coupling": ("affine", "additive", "mixture"),
    "model.nets": ("conv", "gated", "vit"),
    "model.pyramid": ("bicubic", "haar"),
    "model.class_loss": ("bce", "softmax"),
    "model.first": ("none", "mixture"),
    "model.colour": ("linear", "none"),
    "model.order": ("subbands", "halves", "together"),
    "model.permutation": ("dense", "lu"),
    "model.dequantise": ("uniform", "variational"),
    "model.encoder": ("rrdb", "residual"),
    "augment.scaling": ("whitened", "raw"),
    "train.optimizer": ("adamax", "adam", "muon"),
    "train.schedule": ("constant", "halve", "cosine"),
    "train.precision": ("no", "bf16"),
    "train.memory": ("store", "checkpoint", "reversible"),
    "train.resume": ("auto", "never", "force"),
}
LEAST = {
    "data.size": 1,
    "data.bits": 1,
    "data.resize": 1,
    "model.levels": 1,
    "model.hole": 1,
    "model.steps": 0,
    "model.width": 1,
    "model.components": 1,
    "model.net_blocks": 1,
    "model.classes": 0,
    "model.mixture_width": 1,
    "model.mixture_blocks": 0,
    "model.transition_steps": 0,
    "model.dequantise_steps": 1,
    "model.encoder_features": 1,
    "model.encoder_growth": 1,
    "model.encoder_blocks": 1,
    "model.downscaler": 0,
    "augment.refresh": 1,
    "train.steps": 0,
    "train.accumulate": 1,
    "train.workers": 0,
    "train.skip_limit": 0,
    "train.pretrain_steps": 0,
    "train.frozen_steps": 0,
    "train.warmup": 0,
    "train.keep": 1,
    "train.batch_size": 1,
    "train.log_every": 1,
    "train.save_every": 1,
    "train.sample_every": 1,
    "train.init_images": 1,
    "train.validate_images": 1,
    "train.patience": 0,
}

LISTS = {  # types of their items
    "train.betas": (int, float),
    "train.watch_sigmas": (int, float),
    "train.milestones": (int,),
    "train.trackers": (str,),
}
MOST = {
    "data.size": 2**16,
    "model.levels": 16,
    "model.steps": 10_000,
    "model.components": 10_000,
    "model.net_blocks": 10_000,
    "model.transition_steps": 10_000,
    "model.dequantise_steps": 10_000,
    "model.encoder_blocks": 10_000,
    "model.mixture_blocks": 10_000,
    "model.classes": 2**20,
    "train.workers": 1024,
}


def check(config: StageConfig) -> None:
    """Raise `InputError` for values that cannot work, before any work starts."""
    for key, kinds in LISTS.items():
        if not all(type(item) in kinds for item in _value(config, key)):
            raise InputError(f"{key} lists something else than {kinds[-1].__name__} values")
    for key, allowed in CHOICES.items():
        value = _value(config, key)
        if value is not None and value not in allowed:
            raise InputError(f"{key} must be one of {', '.join(allowed)}, got {value!r}")
    for key, least in LEAST.items():
        value = _value(config, key)
        if value is not None and value < least:
            raise InputError(f"{key} must be at least {least}, got {value}")
    for key, most in MOST.items():
        value = _value(config, key)
        if value is not None and value > most:
            raise InputError(f"{key} must be at most {most}, got {value}")
    data, train = config.data, config.train
    for key, fits, must in (
        ("data.bits", data.bits <= 8, "be at most 8"),
        ("data.channels", data.channels in (1, 3), "be 1 or 3"),
        ("train.ema", 0 <= train.ema < 1, "lie in [0, 1)"),
        ("seed", 0 <= config.seed < 2**63, "be a whole number from 0, below 2^63"),
        ("model.class_weight", 0 <= config.model.class_weight <= 1e6, "lie in [0, 10^6]"),
        ("train.label_dropout", 0 <= train.label_dropout < 1, "lie in [0, 1)"),
        ("train.lr", 0 < train.lr <= 1000, "lie above 0, up to 1000"),
        ("train.weight_decay", 0 <= train.weight_decay <= 1000, "lie in [0, 1000]"),
        ("train.pretrain_lr", 0 < train.pretrain_lr <= 1000, "lie above 0, up to 1000"),
        (
            "train.watch_sigmas",
            all(0 <= sigma <= LARGEST for sigma in train.watch_sigmas),
            f"lie in [0, {LARGEST:g}]",
        ),
        (
            "train.seconds",
            train.seconds is None or 0 < train.seconds <= 1e9,
            "lie above 0, up to 10^9",
        ),
        ("train.clip", train.clip > 0, "be above 0"),
        (
            "train.trackers",
            set(train.trackers) <= set(TRACKERS),
            f"list some of {', '.join(TRACKERS)}",
        ),
        (
            "train.accumulate",
            train.batch_size % train.accumulate == 0,
            f"divide train.batch_size={train.batch_size}",
        ),
        ("augment.limit", config.augment.limit > 0.5, "be above 0.5"),
        (
            "train.betas",
            len(train.betas) == 2 and all(0 <= b < 1 for b in train.betas),
            "be two numbers in [0, 1)",
        ),
    ):
        if not fits:
            raise InputError(f"{key} must {must}")
    check_sigma(config.augment.sigma)
    _check_together(config)


def _check_together(config: StageConfig) -> None:
    """Raise `InputError` for settings that do not go together."""
    train = config.train
    if config.augment.previous is None and (config.augment.sigma or config.augment.condition):
        raise InputError("augment needs augment.previous, the folder of the stage below")
    below = config.augment.previous
    if below and Path(below).resolve() == Path(config.out).resolve():
        raise InputError("augment.previous is the stage below, not this one")
    if config.augment.previous and not config.upsamples:
        kind = config.model.kind
        raise InputError(f"augment.previous is for a stage that has one below it, not for a {kind}")
    if (train.pretrain_steps or train.frozen_steps) and (not config.conditional or config.hole):
        raise InputError("train.pretrain_steps and train.frozen_steps are for an SRFlow's encoder")
    if config.hole > config.data.size:
        raise InputError(f"model.hole={config.hole} is larger than data.size={config.data.size}")
    if config.of_chroma and config.data.channels != 3:
        raise InputError("model.kind=colour needs data.channels=3: grey images have no colours")
    if config.stands_alone and not config.has_mixture:
        kind = config.model.kind
        raise InputError(f"model.kind={kind} is of integers: it needs model.first=mixture")
    if train.label_dropout and not config.model.classes:
        raise InputError("train.label_dropout leaves labels out: it needs model.classes")
    if train.start and train.pretrain_steps:
        raise InputError(
            "train.start brings a trained encoder: leave train.pretrain_steps out, or train.start"
        )
    if train.compile and train.memory == "reversible":
        raise InputError("train.compile and train.memory=reversible do not go together: set one")
    if train.seconds and train.schedule == "halve":
        raise InputError("train.schedule=halve counts steps: with train.seconds use cosine")
    if config.model.steps == 0 and (not config.has_mixture or config.model.levels > 1):
        raise InputError(
            "model.steps=0 leaves a mixture alone: it needs model.first=mixture and "
            "model.levels=1; otherwise set model.steps"
        )
    if config.model.mixture_chain and (not config.has_mixture or config.model.order == "together"):
        raise InputError(
            "model.mixture_chain is of the nets of a mixture: it needs model.first=mixture and "
            "model.order=subbands or halves"
        )
    if config.has_mixture and getattr(config.model, "residual", False):
        raise InputError("model.first=mixture is of integers: it needs model.residual=false")
    if config.model.steps == 0 and config.model.dequantise != "uniform":
        raise InputError(
            "model.dequantise=variational gains nothing at model.steps=0: leave it out"
        )
    _check_joint(config)
    if train.frozen_steps > train.steps:
        raise InputError("train.frozen_steps must be at most train.steps")
    if config.model.pyramid == "haar" and getattr(config.model, "residual", False):
        raise InputError(
            "model.residual needs model.pyramid=bicubic: Haar details are a residual already"
        )


def _check_joint(config: StageConfig) -> None:
    """Raise `InputError` for joint training of what cannot be trained so."""
    model, train = config.model, config.train
    if bool(train.joint) != bool(getattr(model, "downscaler", 0)):
        raise InputError(
            "train.joint, the stage below, and model.downscaler, the width of the net that makes "
            "the low images, go together: set both or none"
        )
    if not train.joint:
        return
    for fits, needed in (
        (config.upsamples and model.pyramid == "bicubic", "an SRFlow of model.pyramid=bicubic"),
        (train.start, "train.start, the trained stage itself"),
        (not config.augment.previous, "low images that nothing disturbs: leave augment out"),
        (not train.frozen_steps, "train.frozen_steps=0"),
        (not train.label_dropout, "train.label_dropout=0"),
        (not train.patience, "train.patience=0"),
        (not train.watch_sigmas, "train.watch_sigmas=[]"),
    ):
        if not fits:
            raise InputError(f"train.joint needs {needed}")


def _value(config: StageConfig, key: str) -> Any:
    """What a dotted key stands for, None where this kind of stage has no such setting."""
    section, name = key.split(".")
    return getattr(getattr(config, section), name, None)
