"""What a run may be continued with: the same model, settings and images."""

from __future__ import annotations

from dataclasses import fields

from cascade.config import StageConfig
from cascade.data.sources import ImageSource
from cascade.record import Record
from cascade.training.held_out import HeldOut
from stages import InputError

RESUMED_AS_IT_WAS = {
    "": ["seed"],
    "data": ["name", "size", "channels", "split", "bits", "flip", "resize"],
    "model": [],  # all of it
    "augment": [],
    "train": [
        "batch_size",
        "optimizer",
        "pretrain_steps",
        "frozen_steps",
        "label_dropout",
        "start",
        "joint",
    ],
}


def check_resumable(old: StageConfig, new: StageConfig, before: Record, now: Record) -> None:
    """Raise `InputError` where a stage's saved state is of another model, data set or optimiser.

    ``old`` and ``before`` are the configuration and the record of the state, ``new`` and ``now``
    those of the run that is to go on from it.
    """
    for section, keys in RESUMED_AS_IT_WAS.items():
        one, two = (getattr(c, section) if section else c for c in (old, new))
        for key in keys or [item.name for item in fields(two)]:
            name = f"{section}.{key}" if section else key
            _check_same(name, getattr(one, key, None), getattr(two, key), new.out)
    _check_same("classes", before.classes, now.classes, new.out)
    _check_same("the weights of augment.previous", before.previous, now.previous, new.out)
    if before.images and before.images != now.images and new.train.resume != "force":
        raise InputError(
            f"the training images in {new.data.name} are no longer those that {new.out} was "
            "trained on; restore them, use another out=, or go on with the new ones by "
            "train.resume=force"
        )
    if bool(old.train.seconds) != bool(new.train.seconds):
        raise InputError(
            f"{new.out} was trained with train.seconds={old.train.seconds}; a budget can be "
            "neither begun nor ended later: use another out=, or --force to start over"
        )
    if bool(old.train.ema) != bool(new.train.ema):
        raise InputError(
            f"{new.out} was trained with train.ema={old.train.ema}; averaging can be neither begun "
            "nor ended later: use another out=, or --force to start over"
        )


def _check_same(name: str, before: object, now: object, out: str) -> None:
    if before != now:
        raise InputError(
            f"{out} was trained with {name}={before}, now it is {now}; use another out=, "
            "or --force to start over"
        )


def check_overlap(config: StageConfig, source: ImageSource, held_out: HeldOut) -> None:
    """Raise `InputError` where held-out images are among the training images."""
    if config.data.allow_overlap:
        return
    others = held_out.source
    contents = list(others.contents())
    both = set(contents).intersection(source.contents())
    shared = [i for i, content in enumerate(contents) if content in both]
    if shared:
        raise InputError(
            f"{len(shared)} of {len(others)} {held_out.split} images of {config.data.name} are "
            f"training images too (first: {others.name(shared[0]) or f'number {shared[0]}'}); "
            "remove them, or set data.allow_overlap=true"
        )
