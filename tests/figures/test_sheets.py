"""Sheets of images show every pixel of every image; curves are as many panels as were asked for."""

import numpy as np
import pytest
import torch
from PIL import Image

from cascade.figures.plots import DPI, curves
from cascade.figures.sheets import GAP, TILE, Block, save_sheet


def shown(file) -> np.ndarray:
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_shows_each_image_of_each_row(tmp_path, channels):
    greys = torch.tensor([[10, 60, 110], [160, 210, 240]], dtype=torch.uint8)
    rows = [[grey.expand(channels, 8, 8) for grey in row] for row in greys]
    save_sheet(
        [Block("a title", rows, ["one", "two", "three"], ["up", "down"])], tmp_path / "s.png"
    )
    picture = shown(tmp_path / "s.png")
    counts = [(picture == grey).all(2).sum() for grey in greys.flatten().tolist()]
    assert counts == pytest.approx([TILE**2] * 6, rel=0.05)
    assert picture.shape[1] >= 3 * TILE + 2 * GAP
    assert [file.name for file in tmp_path.iterdir()] == ["s.png"]


def test_large_images_are_not_made_smaller(tmp_path):
    image = torch.full((1, 200, 200), 77, dtype=torch.uint8)
    save_sheet([Block("", [[image]])], tmp_path / "s.png")
    assert (shown(tmp_path / "s.png") == 77).all(2).sum() == pytest.approx(200**2, rel=0.05)


def test_captions_and_further_blocks_take_room(tmp_path):
    row = [[torch.zeros(1, 8, 8, dtype=torch.uint8)] * 2]
    heights = []
    for number, blocks in enumerate(([{}], [{"captions": [["a", "b"]]}], [{}, {}])):
        save_sheet([Block("title", row, **words) for words in blocks], tmp_path / f"{number}.png")
        heights.append(len(shown(tmp_path / f"{number}.png")))
    plain, captioned, two = heights
    assert plain < captioned < two


@pytest.mark.parametrize("panels", [1, 2, 5])
def test_curves_have_a_panel_a_title(tmp_path, panels):
    points = [(0, 0.0), (1, 1.0), (2, 0.5)]
    given = {f"panel {i}": {"ours": points, "theirs": points[::-1]} for i in range(panels)}
    curves(given, "step", "value", tmp_path / "c.png")
    picture = shown(tmp_path / "c.png")
    columns, rows = min(panels, 4), -(-panels // 4)
    assert picture.shape[1] == pytest.approx(4.2 * columns * DPI, abs=1)
    assert picture.shape[0] == pytest.approx(3.4 * rows * DPI, abs=1)
    assert picture.std() > 10
