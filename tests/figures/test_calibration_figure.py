"""The picture of how sure samples are shows every line that it is given."""

import numpy as np
from PIL import Image, ImageColor

from cascade.figures.calibration import Sureness, draw_calibration
from cascade.figures.plots import COLOURS


def test_every_line_is_drawn(tmp_path):
    exact = Sureness([0.25] * 4, 0.05, [(0.5, 0.5), (1, 1)])
    sure = Sureness([0.4, 0.1, 0.1, 0.4], 0.05, [(0.5, 0.2), (1, 1)])
    drawn = []
    for lines in ({"a": exact}, {"a": exact, "b $0.8": sure}):
        draw_calibration(lines, str(tmp_path / "sure.png"))
        pixels = np.asarray(Image.open(tmp_path / "sure.png").convert("RGB"))
        drawn.append([(pixels == ImageColor.getrgb(c)).all(2).sum() > 50 for c in COLOURS[:2]])
    assert drawn == [[True, False], [True, True]]
