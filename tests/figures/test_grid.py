"""Grids of images, named and moving."""

import numpy as np
import torch

from cascade.figures.grid import grid, named, save_moving


def test_names_stand_before_their_rows(tmp_path):
    picture = grid(torch.full((6, 1, 8, 8), 128, dtype=torch.uint8), 2)
    beside = named(picture, ["zero", "", "a long name"])
    assert beside.height == picture.height and beside.width > picture.width + 60
    names = np.asarray(beside.convert("L"))[:, : beside.width - picture.width]
    first, second, third = (part.min() for part in np.array_split(names, 3))
    assert first < 100 and second == 255 and third < 100
    save_moving([picture, picture], tmp_path / "moving.webp", 80)
    assert [file.name for file in tmp_path.iterdir()] == ["moving.webp"]
