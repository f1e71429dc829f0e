"""What a run may be continued with: the same model, settings and images."""

from __future__ import annotations

from dataclasses import fields

from cascade.config import StageConfig
from cascade.data.sources import ImageSource
from cascade.training.held_out import HeldOut
from stages import InputError

RESUMED_AS_IT_WAS = {
    "": ["seed"],
    "data": ["name", "size", "channels", "split", "bits", "flip", "resize", "classes"],
    "model": [],  # all of it
    "augment": [],
    "train": ["batch_size", "optimizer", "pretrain_steps", "frozen_steps"],
}


def check_resumable(old: StageConfig, new: StageConfig) -> None:
    """Raise `InputError` where a stage's saved state is of another model, data set or optimiser."""
    for section, keys in RESUMED_AS_IT_WAS.items():
        before, now = (getattr(c, section) if section else c for c in (old, new))
        for key in keys or [item.name for item in fields(now)]:
            if getattr(before, key, None) != getattr(now, key):
                name = f"{section}.{key}" if section else key
                raise InputError(
                    f"{new.out} was trained with {name}={getattr(before, key, None)}, now it is "
                    f"{getattr(now, key)}; use another out=, or --force to start anew"
                )
    check_fingerprint(new, old.data.fingerprint, new.data.fingerprint)
    if bool(old.train.ema) != bool(new.train.ema):
        raise InputError(
            f"{new.out} was trained with train.ema={old.train.ema}; averaging can be neither begun "
            "nor ended later: use another out=, or --force to start anew"
        )


def check_fingerprint(config: StageConfig, before: str, now: str) -> None:
    """Raise `InputError` where the training images are not those that a run knew before."""
    if before and before != now and config.train.resume != "force":
        raise InputError(
            f"the training images in {config.data.name} are no longer those that {config.out} was "
            "trained on; restore them, use another out=, or go on with the new ones by "
            "train.resume=force"
        )


def check_overlap(config: StageConfig, source: ImageSource, held_out: HeldOut) -> None:
    """Raise `InputError` where held-out images are among the training images."""
    if config.data.allow_overlap:
        return
    trained, others = set(source.contents()), held_out.source
    shared = [i for i, content in enumerate(others.contents()) if content in trained]
    if shared:
        raise InputError(
            f"{len(shared)} of {len(others)} {held_out.split} images of {config.data.name} are "
            f"training images too (first: {others.name(shared[0]) or f'number {shared[0]}'}); "
            "remove them, or set data.allow_overlap=true"
        )
