"""How sure samples are, as a picture: rank histograms, and coverage against what it should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib

from cascade.figures.plots import COLOURS, STYLE, plain, save

matplotlib.use("Agg")
from matplotlib import pyplot

SIZE = (9.2, 3.8)  # inches


@dataclass(frozen=True)
class Sureness:
    """A line of the picture: shares of ranks 0..n, and (nominal, found) coverage of intervals.

    ``by_chance`` is the deviation of (n + 1)·share from 1 that an exact model would have.
    """

    ranks: Sequence[float]
    by_chance: float
    coverage: Sequence[tuple[float, float]]


def draw_calibration(lines: Mapping[str, Sureness], file: str) -> None:
    """Write two panels, a colour a name: flat is exact at the left, the diagonal at the right."""
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=SIZE, layout="constrained")
        drawn = {}
        for place, (name, line) in enumerate(lines.items()):
            count, colour = len(line.ranks), COLOURS[place % len(COLOURS)]
            edges = [i / count for i in range(count + 1)]
            heights = [count * share for share in line.ranks]
            drawn[name] = left.stairs(heights, edges, color=colour, lw=1.6)
            band = (1 - 2 * line.by_chance, 1 + 2 * line.by_chance)
            left.axhspan(*band, color=colour, alpha=0.12, lw=0)
            right.plot(*zip(*line.coverage, strict=True), color=colour, marker="o", ms=3.5)
        left.axhline(1, color="black", lw=0.8)
        right.plot((0, 1), (0, 1), color="black", lw=0.8)
        left.set(
            title="where the truth lies among samples", ylim=(0, None),
            xlabel="rank of the true value / samples", ylabel="as often as if exact",
        )  # fmt: skip
        right.set(
            title="coverage of central intervals", xlim=(0, 1), ylim=(0, 1), xlabel="nominal",
            ylabel="found",
        )  # fmt: skip
        figure.legend(
            drawn.values(), map(plain, drawn), loc="outside lower center", ncols=min(len(drawn), 4),
            frameon=False,
        )  # fmt: skip
        save(figure, file)
