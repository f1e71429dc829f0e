"""The images of a stage in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from cascade.config import StageConfig
from cascade.data.sources import ImageSource, fingerprint
from cascade.data.stage_images import open_stage_splits
from cascade.record import Record
from cascade.training.augmentation import Augmentation
from cascade.training.held_out import HeldOut, held_out_split
from cascade.training.resume import check_overlap


@dataclass
class StageData:
    """Images to learn from, ``held_out`` ones, and what disturbs low images, if anything does.

    ``labelled`` says whether training needs their labels, ``record`` what is to be known of them
    later.
    """

    source: ImageSource
    held_out: HeldOut
    augmentation: Augmentation | None
    labelled: bool
    record: Record


def open_stage_data(config: StageConfig, device: torch.device) -> StageData:
    """Open and check the images, and the stage below where low images are disturbed in it.

    Raises `InputError` where they are not what the stage needs, and where held-out images are among
    the training images.
    """
    splits = open_stage_splits(config)
    source = splits(config.data.split)
    held_out = HeldOut(config, splits(held_out_split(config)), device)
    record, augmentation = Record(classes=list(source.classes)), None
    labelled = bool(config.model.classes)
    if labelled:
        assert source.labels is not None  # or `open_stage_images` refuses it
        record.counts = source.labels.bincount(minlength=config.model.classes).tolist()
    if config.augment.previous:
        augmentation = Augmentation(config, device)
        record.previous = augmentation.digest
        augmentation.check_labels(source)
        labelled |= augmentation.labelled
    check_overlap(config, source, held_out)
    record.images = fingerprint(source)
    return StageData(source, held_out, augmentation, labelled, record)
