"""A table of cascades as Markdown: our figures, the published ones, and the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import stdev
from typing import Any

import torch

from cascade.evaluation.features import FeatureNet
from cascade.evaluation.tables import Row, Table, parts

Entry = dict[str, Any]  # a score that is kept: the figure, and what it is ``of``
Scores = dict[str, float]  # figures of a cascade, by column
BITS, FAILED = "bits/dim", "failed"
REAL = "images"  # so many real ones they are beside, which is no column


def markdown(table: Table, scored: Mapping[str, Sequence[Scores]], net: FeatureNet) -> str:
    """The table with our number beside the published one, and the protocol below it."""
    sizes = list(map(str, table.sizes))
    others = [BITS] * bool(table.likelihood) + [FAILED] * bool(table.failures)
    heads = ["model", "replaced", *sizes, *others, *["seeds"] * bool(table.seeds)]
    lines = [f"# {table.title}", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in table.rows:
        several = scored[row.title]
        published = {str(size): score for size, score in row.published.items()}
        given = [[scores[c] for scores in several if c in scores] for c in (*sizes, *others)]
        cells = [
            beside(ours, published.get(column), 2 if column in sizes else 3)
            for column, ours in zip((*sizes, *others), given, strict=True)
        ]
        shares = [share for seed in table.trainings for share in replaced(row, seed, table)]
        cells = [row.title, beside(shares, row.replaced), *cells]
        cells += [f"{len(several)} of {len(table.seeds)}"] if table.seeds else []
        lines.append(f"| {' | '.join(cells)} |")
    distance = net.labels["frechet"]
    compared = any(row.published for row in table.rows)
    lines += ["", distance + ("; in brackets the published FID." if compared else ".")]
    if not net.genuine:
        lines.append("These are other features than FID's: only our own rows compare.")
    images = next((scores[REAL] for several in scored.values() for scores in several), None)
    mode = f", clean-fid's mode {net.mode}" if net.mode else ""
    lines.append(
        f"{table.num} samples at temperature {table.temperature:g}, seed {table.seed}, beside "
        f"{images} images of {table.data}, {table.split} split, halved to size. Features "
        f"{net.name}, SHA-256 {net.digest}{mode}; clean-fid {net.origin['clean-fid']}, "
        f"torch {torch.__version__}."
    )
    if table.likelihood:
        lines.append(
            f"Bits/dim: of at most {table.likelihood} of these images, K = 1, classes marginal."
        )
    if table.failures:
        lines.append(
            f"Failed: the share of {table.failures} samples with a value that is not finite, or "
            "more than one whole range of values beyond it."
        )
    if table.seeds:
        lines.append("Means and standard deviations over seeds of training.")
    return "\n".join(lines) + "\n"


def beside(ours: Sequence[float], published: float | None, digits: int = 2) -> str:
    """Our figure, a mean and deviation of several, and the published one in brackets."""
    mean = f"{sum(ours) / len(ours):.{digits}f}" if ours else "–"
    own = f"{mean} ± {stdev(ours):.{digits}f}" if len(ours) > 1 else mean
    return (own if ours else "") if published is None else f"{own} ({published:.2f})"


def replaced(row: Row, seed: int | None, table: Table) -> list[float]:
    """The share of disturbed low images that training of the row's last σ stage gave up on."""
    disturbed = [part for part in parts(row, seed) if part.sigma and part.trained(table)]
    shares = [part.replaced(table) for part in disturbed[-1:]]
    return [share for share in shares if share is not None]
