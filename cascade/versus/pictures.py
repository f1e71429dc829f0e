"""Pictures of a comparison: images side by side with what they differ by, and training curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cascade.evaluation.enlargements.image_metrics import mean_squares, psnr_between
from cascade.figures.plots import curves
from cascade.figures.sheets import Block, save_sheet
from cascade.versus.outcome import Outcome
from cascade.versus.verdict import NAMES

GAIN = 4  # of differences
PANELS = {
    "objective": "own held-out loss, least 0, greatest 1",
    "psnr": "held-out PSNR, dB",
    "distance": "held-out feature distance",
}


def save_pictures(
    low: Tensor, true: Tensor, made: Mapping[str, Tensor], file: str, count: int = 4
) -> None:
    """Write rows of images, each with a row of differences from the truth below it.

    ``low`` (N, C, h, w) and ``true`` (N, C, H, W) are uint8, ``made`` holds images by method. Those
    that are shown are spread over the N from the plainest to the busiest true image.
    """
    columns = ["low", *(NAMES[name] for name in made), "truth"]
    rows, names, captions = [], [], []
    for place in chosen(true, count):
        truth, images = true[place], [image[place] for image in made.values()]
        scores = [f"{psnr_between(image, truth):.1f} dB" for image in images]
        rows.append([low[place], *images, truth])
        captions.append(["", *scores, ""])
        blank = torch.full_like(truth, 255)
        rows.append([blank, *(difference(image, truth) for image in images), blank])
        captions.append([""] * len(columns))
        names += [f"image {place}", f"difference x{GAIN}"]
    save_sheet([Block("enlarged images", rows, columns, names, captions)], file)


def chosen(true: Tensor, count: int) -> list[int]:
    """Places of so many images, evenly spread from the least contrast to the most."""
    contrast = mean_squares(true, true.double().mean((-2, -1), keepdim=True).expand(true.shape))
    order = contrast.argsort()
    places = torch.linspace(0, len(order) - 1, min(count, len(order))).round().long()
    return order[places].tolist()


def difference(image: Tensor, truth: Tensor) -> Tensor:
    """Grey where two uint8 images agree; else the grey, and four times what they differ by."""
    return (128 + GAIN * (image.int() - truth.int())).clamp(0, 255).to(torch.uint8)


def save_curves(outcomes: Mapping[str, Sequence[Outcome]], file: str) -> None:
    """Write training curves of the first seed over steps, a panel a score, a line a training.

    ``outcomes`` are by method; losses, of different kinds, are brought to one scale, and of a
    training that changes its loss the last is shown.
    """
    seed = next(iter(outcomes.values()))[0].of["stage"]["seed"]
    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for key, title in PANELS.items():
        lines = panels.setdefault(title, {})
        for method, runs in outcomes.items():
            for run in (run for run in runs if run.of["stage"]["seed"] == seed):
                last = run.curve[-1].get("phase", 0) if run.curve else 0
                points = [
                    (p["step"], p[key])
                    for p in run.curve
                    if p[key] is not None and (key != "objective" or p.get("phase", 0) == last)
                ]
                if key == "objective":
                    points = scaled(points)
                if points:
                    lines[f"{NAMES[method]} {run.of['stage']['data']['size']}"] = points
    curves({title: lines for title, lines in panels.items() if lines}, "steps", "", file)


def scaled(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same points, the greatest at 1 and the least at 0."""
    values = [value for _, value in points]
    least = min(values, default=0.0)
    span = max(values, default=0.0) - least
    return [(step, (value - least) / (span or 1.0)) for step, value in points]
