"""A table of cascades as Markdown: our figures, the published ones, and the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from cascade.evaluation.claims import Claim, Spread, verdict
from cascade.evaluation.features import FeatureNet
from cascade.evaluation.tables import BITS, FAILED, REPLACED, Table

Entry = dict[str, Any]  # a score that is kept: the figure, and what it is ``of``
Scores = dict[str, float]  # figures of a cascade, by column
REAL = "images"  # so many real ones they are beside, which is no column


def markdown(table: Table, scored: Mapping[str, Sequence[Scores]], net: FeatureNet) -> str:
    """The table with our number beside the published one, its claims, and the protocol below."""
    heads = ["model", *table.columns, *["seeds"] * bool(table.seeds)]
    lines = [f"# {table.title}", "", *header(heads)]
    for row in table.rows:
        several = scored[row.title]
        published = {str(size): score for size, score in row.published.items()}
        published |= {} if row.replaced is None else {REPLACED: row.replaced}
        cells = [
            beside(spread(several, column), published.get(column), column)
            for column in table.columns
        ]
        seeds = [f"{len(several)} of {len(table.seeds)}"] if table.seeds else []
        lines.append(f"| {' | '.join([row.title, *cells, *seeds])} |")
    if table.claims:
        heads = ["claim", "below; above", "column", "figures", "difference", "Cohen's d", "verdict"]
        lines += ["", *header(heads), *[told(claim, scored) for claim in table.claims]]
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


def header(heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]


def spread(several: Sequence[Scores], column: str) -> Spread | None:
    """A column's figure over the cascades of a row that have it."""
    values = [scores[column] for scores in several if column in scores]
    return Spread.of(values) if values else None


def digits(column: str) -> int:
    """So many are shown of its figures."""
    return 3 if column in (BITS, FAILED, REPLACED) else 2


def shown(ours: Spread, column: str) -> str:
    """A figure, a mean and deviation of several."""
    places = digits(column)
    deviation = f" ± {ours.deviation:.{places}f}" if ours.count > 1 else ""
    return f"{ours.mean:.{places}f}{deviation}"


def beside(ours: Spread | None, published: float | None, column: str) -> str:
    """Our figure, and the published one in brackets."""
    own = shown(ours, column) if ours else "–" if published is not None else ""
    return own if published is None else f"{own} ({published:.2f})"


def told(claim: Claim, scored: Mapping[str, Sequence[Scores]]) -> str:
    """The row of a claim: both figures, how far apart they are, and what follows."""
    below, above = (spread(scored[title], claim.column) for title in (claim.below, claim.above))
    cells = [claim.says, f"{claim.below}; {claim.above}", claim.column]
    if below and above:
        effect = below.effect(above)
        cells += [
            f"{shown(below, claim.column)}; {shown(above, claim.column)}",
            f"{below.mean - above.mean:+.{digits(claim.column)}f}",
            "" if effect is None else f"{effect:+.1f}",
            verdict(below, above),
        ]
    else:
        cells += ["", "", "", "no figures"]
    return f"| {' | '.join(cells)} |"
