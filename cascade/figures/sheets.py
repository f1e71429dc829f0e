"""How `figures.py` draws images: blocks of rows and columns, with names that can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
from torch import Tensor

from cascade.figures.plots import DPI, STYLE, plain, save

matplotlib.use("Agg")
from matplotlib import pyplot

TILE, GAP, LINE = 96, 8, 20  # pixels: least side of an image, between images, of a line of text


@dataclass
class Block:
    """Rows of uint8 images (C, h, w), all drawn equally large, under a title of one or more lines.

    ``columns`` stand above the images, ``names`` at the left of rows, ``captions`` below images.
    """

    title: str
    rows: Sequence[Sequence[Tensor] | Tensor] | Tensor
    columns: Sequence[str] = ()
    names: Sequence[str] = ()
    captions: Sequence[Sequence[str]] = ()


def save_sheet(blocks: Sequence[Block], file: str) -> None:
    """Write blocks of images, one above the other, as one picture."""
    images = [image for block in blocks for row in block.rows for image in row]
    tile = max(TILE, *(max(image.shape[1:]) for image in images))
    widest = max(len(row) for block in blocks for row in block.rows)
    with matplotlib.rc_context({**STYLE, "savefig.bbox": "tight"}):
        figure = pyplot.figure()
        axis = figure.add_axes((0, 0, 1, 1))
        bottom: float = 0
        for block in blocks:
            bottom = _draw(axis, block, bottom, tile)
        width = widest * (tile + GAP)
        axis.set(xlim=(0, width), ylim=(bottom, 0), aspect="auto")
        axis.axis("off")
        figure.set_size_inches(width / DPI, bottom / DPI)
        save(figure, file)


def _draw(axis: pyplot.Axes, block: Block, top: float, tile: int) -> float:
    """Draw a block from ``top`` downwards; where it ends."""
    axis.text(0, top, plain(block.title), va="top", fontweight="bold")
    top += LINE * (1.5 + block.title.count("\n"))
    for column, text in enumerate(block.columns):
        middle = column * (tile + GAP) + tile / 2
        axis.text(middle, top + LINE / 3, plain(text), ha="center", va="center", size=10)
    top += LINE if block.columns else 0
    for row, images in enumerate(block.rows):
        if block.names:
            axis.text(
                -GAP, top + tile / 2, plain(block.names[row]), ha="right", va="center", size=10
            )
        for column, image in enumerate(images):
            left = column * (tile + GAP)
            _show(axis, image, left, top, tile)
            if block.captions:
                text, middle = block.captions[row][column], top + tile + LINE / 2
                axis.text(left + tile / 2, middle, plain(text), ha="center", va="center", size=10)
        top += tile + (LINE if block.captions else 0) + GAP
    return top + LINE / 2


def _show(axis: pyplot.Axes, image: Tensor, left: float, top: float, tile: int) -> None:
    pixels = image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy()
    place = (left, left + tile, top + tile, top)
    axis.imshow(pixels, interpolation="nearest", extent=place)
