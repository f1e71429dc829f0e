"""Telling two data sets apart by likelihood."""

from __future__ import annotations

import torch
from torch import Tensor

from cascade.likelihood import Report


def auroc(ours: Tensor, theirs: Tensor) -> float:
    """P(a score of ``theirs`` exceeds one of ``ours``), ties counted half, in [0, 1]."""
    ordered = ours.sort().values
    below = torch.searchsorted(ordered, theirs, side="left")
    not_above = torch.searchsorted(ordered, theirs, side="right")
    return ((below + not_above).double().mean() / (2 * len(ours))).item()


def separation(
    ours: Report, theirs: Report, files: tuple[Tensor, Tensor] | None = None
) -> dict[str, float]:
    """AUROC for calling an image foreign because its figure is higher, by several figures.

    ``total``: bits/dim. A stage's name: its share. ``total - WebP``: bits/dim minus that of the
    lossless file, a complexity-corrected score, where ``files`` holds those (N,) of either set.
    Source: Serrà et al., 2020, https://arxiv.org/abs/1909.11480
    """
    result = {"total": auroc(ours.image_bpd, theirs.image_bpd)}
    for i, name in enumerate(ours.names):
        result[name] = auroc(-ours.nats[:, i], -theirs.nats[:, i])
    if files is None:
        return result
    corrected = (ours.image_bpd - files[0], theirs.image_bpd - files[1])
    return {**result, "total - WebP": auroc(*corrected)}
