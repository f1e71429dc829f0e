"""Scores of an image alone, without a true one beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cascade.evaluation.enlargements.brisque import Brisque
from cascade.evaluation.enlargements.niqe import Pristine
from cascade.evaluation.enlargements.piqe import piqe

NAMES = {"niqe": "NIQE", "brisque": "BRISQUE", "piqe": "PIQE"}


@dataclass(frozen=True)
class Judge:
    """A score of images uint8 (C, H, W), the less the better, and the file that it came from."""

    key: str
    score: Callable[[Tensor], float]
    file: str | None = None
    digest: str | None = None


def judges(
    niqe: str | Path | None = None, brisque: str | Path | None = None, with_piqe: bool = False
) -> list[Judge]:
    """Those of which there is a file, and PIQE, which needs none.

    Raises `InputError` for files that are not what they should be, and where a package is missing.
    """
    found = []
    if niqe is not None:
        pristine = Pristine.load(niqe)
        found.append(Judge("niqe", pristine, pristine.name, pristine.digest))
    if brisque is not None:
        model = Brisque.load(brisque)
        found.append(Judge("brisque", model, model.name, model.digest))
    return found + [Judge("piqe", piqe)] * with_piqe


def scores_of(image: Tensor, judges: Sequence[Judge]) -> dict[str, float]:
    """Every judge's score of an image uint8 (C, H, W), by its key."""
    return {judge.key: judge.score(image) for judge in judges}


def origins(judges: Sequence[Judge]) -> dict[str, dict[str, str | None]]:
    """What it takes to compute the same scores again."""
    return {judge.key: {"file": judge.file, "sha256": judge.digest} for judge in judges}
