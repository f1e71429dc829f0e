"""Labels of images, as users give them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from stages import InputError
from stages.labels import NO_LABEL

Labels = Tensor | Sequence[int] | Sequence[str] | None
SHOWN = 20  # names of classes in a message


def label_named(text: str, names: Sequence[str]) -> int:
    """The label of a class as users write it: its name, or else its number.

    ``names`` are those of all classes, in the order of labels. Raises `InputError` for what is
    neither.
    """
    numbers = [str(label) for label in range(len(names))]
    for known in (names, numbers):
        if text in known:
            return known.index(text)
    shown = ", ".join(names[:SHOWN]) + ", ..." * (len(names) > SHOWN)
    raise InputError(
        f"there is no class {text!r}: name one of {shown}, or give its number, 0..{len(names) - 1}"
    )


def checked_labels(
    labels: Tensor | Sequence[int] | Sequence[str],
    count: int,
    names: Sequence[str],
    optional: bool = False,
) -> Tensor:
    """Labels as int64 (count,), one an image; `InputError` for anything else.

    ``names`` are those of all classes, in the order of labels: numbers lie in 0..len(names) − 1,
    and strings are read by `label_named`. Where labels are ``optional``, −1 stands for none.
    """
    if isinstance(labels, list | tuple) and labels and all(isinstance(y, str) for y in labels):
        labels = [label_named(str(name), names) for name in labels]
    classes = len(names)
    try:
        given = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise InputError(
            f"labels are whole numbers or names, one an image, got {labels!r}"
        ) from None
    if given.numel() and (given.is_floating_point() or given.dtype == torch.bool):
        raise InputError(f"labels are whole numbers, got {given.dtype}")
    given = given.to(torch.int64)
    if given.shape != (count,):
        raise InputError(f"{count} images need {count} labels, got {tuple(given.shape)}")
    least = NO_LABEL if optional else 0
    if count and not (given.min() >= least and given.max() < classes):
        span = f"{int(given.min())}..{int(given.max())}"
        none = f", or be {NO_LABEL} for none" * optional
        raise InputError(f"labels must lie in 0..{classes - 1}{none}, got {span}")
    return given


def check_guidance(strength: float, classes: int, optional: bool) -> None:
    """Raise `InputError` where what classes add cannot be multiplied by ``strength``.

    ``optional`` says whether all stages with classes learned to do without labels.
    """
    if not 0 <= strength < math.inf:
        raise InputError(f"guidance is a finite number not below 0, got {strength}")
    if strength == 1 or optional:
        return
    if not classes:
        raise InputError("guidance multiplies what classes add, but no stage uses labels")
    raise InputError(
        "guidance needs stages that learned to do without labels: train all that have classes "
        "with train.label_dropout=0.1"
    )
