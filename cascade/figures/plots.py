"""How `figures.py` draws curves: one style, legible labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from cascade.utils.files import whole

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#8a5aa8", "#c98a1b", "#555555")
DPI = 110  # pixels an inch
FEW = 40  # points that are marked, each
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}
Lines = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def curves(panels: Lines, across: str, up: str, file: str) -> None:
    """A panel a title, side by side; in each, a line a name through its (x, y) points."""
    columns = min(len(panels), 4)
    rows = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(4.2 * columns, 3.4 * rows), squeeze=False, layout="constrained"
        )
        for axis in axes.flat[len(panels) :]:
            axis.axis("off")
        names = list(dict.fromkeys(name for lines in panels.values() for name in lines))
        drawn = {}
        for axis, (title, lines) in zip(axes.flat, panels.items(), strict=False):
            for name, points in lines.items():
                colour = COLOURS[names.index(name) % len(COLOURS)]
                style = {"color": colour, "marker": "o" if len(points) <= FEW else "", "ms": 3.5}
                (drawn[name],) = axis.plot(*zip(*points, strict=True), **style)
            axis.set(title=plain(title), xlabel=across, ylabel=up)
        figure.legend(
            drawn.values(), map(plain, drawn), loc="outside lower center", ncols=min(len(drawn), 4),
            frameon=False,
        )  # fmt: skip
        save(figure, file)


def plain(text: str) -> str:
    """A text shown as it is: between dollar signs matplotlib would read mathematics."""
    return text.replace("$", r"\$")


def save(figure: pyplot.Figure, file: str) -> None:
    """Write a figure, whole or not at all."""
    with whole(file) as aside:
        figure.savefig(aside, dpi=DPI)
    pyplot.close(figure)
