"""How `figures.py` draws: one style, legible labels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib
import torch
from torch import Tensor

from cascade.files import whole

matplotlib.use("Agg")
from matplotlib import pyplot

COLOURS = ("#1b6ca8", "#d1495b", "#3a8f5c", "#8a5aa8", "#c98a1b", "#555555")
STYLE = {
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
                drawn[name] = axis.plot(
                    [x for x, _ in points], [y for _, y in points], color=colour, marker="o", ms=3.5
                )[0]
            axis.set(title=title, xlabel=across, ylabel=up)
        figure.legend(
            drawn.values(), drawn, loc="outside lower center", ncols=min(len(drawn), 4),
            frameon=False,
        )  # fmt: skip
        save(figure, file)


def image_panels(panels: Sequence[tuple[str, Tensor]], columns: Sequence[str], file: str) -> None:
    """One above the other, a title each: images uint8 (columns, N, C, H, W), N rows."""
    with matplotlib.rc_context(STYLE):
        tallest = sum(images.shape[1] for _, images in panels)
        figure = pyplot.figure(
            figsize=(1.15 * len(columns), 1.1 * tallest + 0.7 * len(panels)), layout="constrained"
        )
        parts = figure.subfigures(len(panels), 1, height_ratios=[p[1].shape[1] for p in panels])
        for part, (title, images) in zip(_list(parts), panels, strict=True):
            part.suptitle(title)
            axes = part.subplots(images.shape[1], len(columns), squeeze=False)
            for row in range(images.shape[1]):
                for column, label in enumerate(columns):
                    _show(axes[row, column], images[column, row])
                    if row == 0:
                        axes[row, column].set_title(label, fontsize=10)
        save(figure, file)


def sample_rows(panels: Sequence[tuple[str, Sequence[Tensor]]], file: str) -> None:
    """A block a name: a row a resolution, of images uint8 (N, C, H, W), base first."""
    with matplotlib.rc_context(STYLE):
        rows, across = sum(len(levels) for _, levels in panels), len(panels[0][1][0])
        figure = pyplot.figure(
            figsize=(1.0 * across, 1.0 * rows + 0.5 * len(panels)), layout="constrained"
        )
        parts = figure.subfigures(len(panels), 1, height_ratios=[len(p[1]) for p in panels])
        for part, (title, levels) in zip(_list(parts), panels, strict=True):
            part.suptitle(title)
            axes = part.subplots(len(levels), across, squeeze=False)
            for row, images in enumerate(levels):
                for column, image in enumerate(images):
                    _show(axes[row, column], image)
        save(figure, file)


def save(figure: pyplot.Figure, file: str) -> None:
    """Write a figure, whole or not at all."""
    with whole(file) as aside:
        figure.savefig(aside, dpi=110)
    pyplot.close(figure)


def _list(parts: object) -> list:
    return list(parts) if hasattr(parts, "__len__") else [parts]


def _show(axis: pyplot.Axes, image: Tensor) -> None:
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    axis.imshow(pixels, interpolation="nearest")
    axis.axis("off")
